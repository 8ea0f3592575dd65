"""Writes report.md, report.csv, report.json and report.html into a run folder.

The one page has everything inside and fetches nothing; it is light and dark, readable on a phone and on paper.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field

import edgeres
from edgeres.core.amounts import counted
from edgeres.core.config import Config
from edgeres.core.errors import MissingDependency, require
from edgeres.core.files import write_text
from edgeres.core.metrics import Interval, in_style
from edgeres.core.records.frontier import Frontier, Result, on_front
from edgeres.core.records.sweep import SweepPoint
from edgeres.core.runs import PAGE_NAME
from edgeres.core.safe_text import short
from edgeres.report import network_drawing, plots
from edgeres.report.agreements import AgreementFigure
from edgeres.report.findings import HistogramFigure, TimedWay
from edgeres.report.folder import versions_in
from edgeres.report.rows import rows_from
from edgeres.report.summary import RunSummary
from edgeres.report.table import board_cells, board_columns, boards_csv_from, csv_from, markdown_from
from edgeres.report.wording import (
    Lines,
    cells,
    closeness_text,
    columns_of,
    figure_lines,
    lost,
    milliseconds,
    percent,
    percent_lines,
    runtime_name,
    signed,
    size,
)

log = logging.getLogger(__name__)

BOARDS_NAME = "report.boards.csv"  # written only where a board measured
TEMPLATES = Path(__file__).parent / "templates"
TEMPLATE_NAME = "page.html.j2"


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
        columns=columns_of(summary.rows),
        rows=[(row, cells(row)) for row in summary.rows],
        board_columns=board_columns(summary.boards),
        commands=commands_for(summary),
        versions=versions_in(stage.environment for stage in summary.stages),
        version=edgeres.__version__,
    )
    return html


def commands_for(summary: RunSummary) -> list[str]:
    """What to type to get this run again."""
    if summary.recipe:
        return ["edgeres run recipe.toml"]
    return list(dict.fromkeys(stage.command for stage in summary.stages if stage.command))


def result_cells(one: Result) -> list[Lines]:
    """One row a network that is handed over."""
    on_val = one.val_lost_points
    return [
        (one.name,),
        (one.tried.name, one.why),
        figure_lines(one.tried.ratio, in_style(".3f")),
        (milliseconds(one.tried.latency_ms.value),),
        (*_lost_lines(on_val), one.val_images) if on_val else ("not judged",),
    ]


def _lost_lines(figure: Interval) -> Lines:
    """`1.43`, `[1.34, 1.52]`; no brackets without an interval, as of outputs that were compared on val."""
    text, bounds = figure_lines(figure, partial(lost, decimals=2))
    return (text,) if figure.low == figure.high else (text, bounds)


def tried_cells(found: Frontier) -> list[list[Lines]]:
    """One row a network that was tried, the slowest first."""
    front = on_front(found.tried)
    return [
        [
            (one.name,),
            figure_lines(one.ratio, in_style(".3f")),
            (milliseconds(one.latency_ms.value),),
            _lost_lines(one.lost_points),
            ("yes" if one in front else "no",),
            (", ".join(one.dropped) or "–",),
        ]
        for one in sorted(found.tried, key=lambda one: -one.ratio.value)
    ]


def sweep_cells(point: SweepPoint) -> list[Lines]:
    """One row a number of modules."""
    return [
        (str(point.count),),
        percent_lines(point.quality) if point.top1 else figure_lines(point.quality, in_style(".5f")),
        (f"{lost(-point.change_points, 2)} ± {point.half_width_points:.2f}" if point.count else "–",),
        (milliseconds(point.latency_ms.value),),
        figure_lines(point.ratio, in_style(".3f")),
        ("yes" if point.is_best else "no",),
        (", ".join(point.dropped) or "–",),
    ]


def way_cells(one: TimedWay) -> list[Lines]:
    """One row a network, batch and way."""
    return [
        (one.name, f"{one.way}, batch {one.batch}"),
        figure_lines(one.images_per_s, in_style(",.0f")),
        figure_lines(one.p50_ms, milliseconds),
        (", ".join(f"{name} {milliseconds(ms)}" for name, ms in one.parts_ms.items()) or "–",),
        (f"{one.samples:,}",),
        (runtime_name(one.runtime),),
    ]


def bounds_of(figure: HistogramFigure) -> tuple[tuple[str, ...], list[list[Lines]]]:
    """(column titles, rows) of every calibrator's bound for the tensors that are shown."""
    methods = tuple(dict.fromkeys(method for one in figure.shown for method in one.amax))
    rows = []
    for one in figure.shown:
        cells: list[Lines] = [(one.tensor, f"exact zeros {percent(one.zeros / one.n)} %" if one.n else "")]
        for method in methods:
            noise = one.sqnr_db.get(method)
            bound = (f"{one.amax[method]:.3g}",) if method in one.amax else ("–",)
            taken = ("taken",) if method == one.chosen else ()
            cells.append((*bound, *([f"{noise:.1f} dB"] if noise is not None else []), *taken))
        rows.append(cells)
    return ("Tensor", *methods), rows


def agreement_cells(one: AgreementFigure) -> list[Lines]:
    """One row of the agreement table."""
    runtimes = tuple(dict.fromkeys((runtime_name(one.runtime_a), runtime_name(one.runtime_b))))
    return [
        (f"{one.b}", f"against {one.a}"),
        runtimes,
        (*percent_lines(one.same, after=" %"), f"n = {one.n:,}"),
        (f"{one.only_a:,}",),
        (f"{one.only_b:,}",),
        figure_lines(one.points, signed, after=" points"),
    ]


_BY_NAME = (counted, size, lost, signed, short, agreement_cells, result_cells, tried_cells, sweep_cells, way_cells)
_FILTERS: dict[str, Callable[..., Any]] = {function.__name__: function for function in _BY_NAME} | {
    "ms": milliseconds,
    "thousands": "{:,}".format,
    "tensor_title": plots.tensor_title,
    "closeness": closeness_text,
    "board_cells": lambda board: board_cells(board).values(),
    "bounds": bounds_of,
    "signed_bounds": lambda interval: interval.bounds(say=signed),
    "run_path": lambda folder: "/".join(Path(folder).parts[-2:]),
    "fields": lambda record, *names: [(getattr(record, name),) for name in names],
    "file_name": lambda path: Path(path).name,
    "headings": lambda html: re.findall(r'<h2 id="(\w+)">([^<]+)</h2>', html),
}
