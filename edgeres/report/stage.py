"""Writes report.md, report.csv, report.json and report.html into a run folder."""

from __future__ import annotations

import logging
from pathlib import Path

from pydantic import Field

from edgeres.core.config import Config
from edgeres.core.errors import MissingDependency
from edgeres.core.files import write_text
from edgeres.report.page import page_from
from edgeres.report.rows import rows_from
from edgeres.report.summary import RunSummary
from edgeres.report.table import boards_csv_from, csv_from, markdown_from

log = logging.getLogger(__name__)

PAGE_NAME = "report.html"
BOARDS_NAME = "report.boards.csv"  # written only where a board measured


class ReportConfig(Config):
    """What is written beside the terminal's table."""

    html: bool = Field(True, description="write the page too (needs matplotlib and jinja2)")


def report(run: Path, config: ReportConfig) -> RunSummary:
    """The summary of the run, written into its folder; without matplotlib or jinja2 a problem says so.

    Raises InputError if the folder holds no finished stage.
    """
    summary = rows_from(run)
    if config.html:
        summary = _with_page(summary, run)
    write_text(run / "report.json", summary.model_dump_json(indent=1) + "\n")
    write_text(run / "report.md", markdown_from(summary))
    write_text(run / "report.csv", csv_from(summary))
    if summary.boards:
        write_text(run / BOARDS_NAME, boards_csv_from(summary))
    else:
        (run / BOARDS_NAME).unlink(missing_ok=True)
    return summary


def _with_page(summary: RunSummary, run: Path) -> RunSummary:
    try:
        page = page_from(summary)
    except MissingDependency as err:
        problem = f"{PAGE_NAME} was not written: {err}"
        log.warning("%s", problem)
        return summary.model_copy(update={"problems": (*summary.problems, problem)})
    write_text(run / PAGE_NAME, page)
    log.info("wrote %s", run / PAGE_NAME)
    return summary
