"""The one page: everything inside, nothing fetched, light and dark, readable on a phone and on paper."""

from __future__ import annotations

import re
from pathlib import Path

import edgeres
from edgeres.core.errors import require
from edgeres.core.plain import short
from edgeres.report import network_drawing, page_tables, plots
from edgeres.report.boards_text import BOARD_COLUMNS
from edgeres.report.folder import versions_in
from edgeres.report.summary import RunSummary
from edgeres.report.wording import COLUMNS, cells, lost, milliseconds, signed, size

TEMPLATES = Path(__file__).parent / "templates"
TEMPLATE_NAME = "page.html.j2"
_FILTERS = {
    "size": size,
    "lost": lost,
    "ms": milliseconds,
    "signed": signed,
    "thousands": "{:,}".format,
    "tensor_title": plots.tensor_title,
    "agreement_cells": page_tables.agreement_cells,
    "short": short,
    "file_name": lambda path: Path(path).name,
    "headings": lambda html: re.findall(r'<h2 id="(\w+)">([^<]+)</h2>', html),
}


def page_from(summary: RunSummary) -> str:
    """The HTML text; raises MissingDependency without jinja2 or matplotlib."""
    jinja2 = require("jinja2", "report")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(_FILTERS)
    html: str = environment.get_template(TEMPLATE_NAME).render(
        summary=summary,
        plots=plots,
        network=network_drawing,
        tables=page_tables,
        columns=COLUMNS,
        rows=[(row, cells(row)) for row in summary.rows],
        board_columns=BOARD_COLUMNS,
        commands=commands_for(summary),
        versions=versions_in(stage.environment for stage in summary.stages),
        version=edgeres.__version__,
    )
    return html


def commands_for(summary: RunSummary) -> list[str]:
    """What to type to get this run again."""
    if summary.recipe:
        return ["edgeres run recipe.toml"]
    return [stage.command for stage in summary.stages if stage.command]
