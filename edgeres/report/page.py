"""The one page: everything inside, nothing fetched, light and dark, readable on a phone and on paper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import edgeres
from edgeres.core.errors import require
from edgeres.report import page_text as text
from edgeres.report.boards_text import BOARD_COLUMNS, board_cells
from edgeres.report.findings import HistogramFigure
from edgeres.report.folder import versions_in
from edgeres.report.network_drawing import network_label, network_svg
from edgeres.report.plots import (
    agreement_svg,
    calls_svg,
    costs_svg,
    histograms_svg,
    lesion_svg,
    sweep_svg,
    tradeoff_svg,
)
from edgeres.report.summary import RunSummary, StageDetail
from edgeres.report.wording import COLUMNS, cells, size

TEMPLATES = Path(__file__).parent / "templates"
TEMPLATE_NAME = "page.html.j2"
_MOST_WARNINGS = 8  # before the rest is folded away
_MOST_IN_A_COLUMN = 3  # histograms
_SHORT = 12  # hex digits that tell two files apart by eye


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
    pictures, versions = _pictures(summary), versions_in(stage.environment for stage in summary.stages)
    html: str = environment.get_template(TEMPLATE_NAME).render(
        summary=summary,
        sections=list(text.sections_of(summary, has_pictures={name for name, svg in pictures.items() if svg})),
        columns=COLUMNS,
        rows=[(row, cells(row)) for row in summary.rows],
        details=[_detail(stage) for stage in summary.stages],
        machines=sorted(versions.pop("machine", [])),
        versions={name: ", ".join(values) for name, values in versions.items()},
        commands=commands_for(summary),
        short=lambda sha256: sha256[:_SHORT],
        file_size=size,
        most_warnings=_MOST_WARNINGS,
        version=edgeres.__version__,
        **pictures,
        **_words(summary),
    )
    return html


def commands_for(summary: RunSummary) -> list[str]:
    """What to type to get this run again."""
    if summary.recipe:
        return ["edgeres run recipe.toml"]
    return [stage.command for stage in summary.stages if stage.command]


def _pictures(summary: RunSummary) -> dict[str, Any]:
    """SVG by the name the templates use, empty for what was not measured."""
    markup = require("markupsafe", "report").Markup
    dropped = {module.name for module in summary.modules if module.dropped}
    found = {
        "tradeoff": tradeoff_svg(summary),
        "sweep": sweep_svg(summary.sweep) if summary.sweep else "",
        "network": network_svg(summary.modules, text.lost_by_module(summary)),
        "lesion": lesion_svg(summary),
        "calls": calls_svg([(row.name, row.latency) for row in summary.rows if row.latency], "calls"),
        "costs": costs_svg(summary.costs, dropped) if summary.costs else "",
        "histograms": _halves(summary.histograms)[0],
        "more_histograms": _halves(summary.histograms)[1],
        "board_calls": calls_svg([(one.stage, one.latency) for one in summary.boards if one.latency], "board-calls"),
    }
    return {name: markup(svg) for name, svg in found.items()}


def _halves(figure: HistogramFigure | None) -> tuple[str, str]:
    """The histograms in two columns, one where they are few."""
    if figure is None:
        return "", ""
    middle = -(-len(figure.shown) // 2) if len(figure.shown) > _MOST_IN_A_COLUMN else len(figure.shown)
    first, second = (
        figure.model_copy(update={"shown": part}) for part in (figure.shown[:middle], figure.shown[middle:])
    )
    return histograms_svg(first, "histograms"), histograms_svg(second, "more-histograms") if second.shown else ""


def _words(summary: RunSummary) -> dict[str, Any]:
    """What stands beside and below the pictures, and the tables."""
    markup = require("markupsafe", "report").Markup
    titles, bounds = text.bounds_of(summary.histograms) if summary.histograms else ((), [])
    return {
        "how_recovered": text.how_recovered(summary),
        "sweep_rows": text.sweep_rows(summary.sweep) if summary.sweep else [],
        "network_label": network_label(summary.modules),
        "network_caption": text.network_caption(summary),
        "lesion_label": text.lesion_label(summary),
        "timed_conditions": text.timed_conditions(summary),
        "way_rows": text.way_rows(summary),
        "calls_label": text.calls_label(summary),
        "costs_label": text.costs_label(summary),
        "costs_caption": text.costs_caption(summary),
        "histograms_label": text.histograms_label(summary),
        "bound_titles": titles,
        "bound_rows": bounds,
        "agreement_rows": [text.agreement_cells(one) for one in summary.agreements],
        "kept": [
            {**text.kept_text(one), "svg": markup(agreement_svg(one, f"agree-{place}"))}
            for place, one in enumerate(summary.kept_agreements)
        ],
        "board_columns": BOARD_COLUMNS,
        "board_rows": [list(board_cells(board).values()) for board in summary.boards],
        "absent_rows": [[(one.name,), (one.what,), (one.why,), (one.todo,)] for one in summary.absent],
    }


def _detail(stage: StageDetail) -> dict[str, Any]:
    settings = {name: value for name, value in stage.config.items() if value not in (None, [])}
    return {
        "stage": stage,
        "settings": settings,
        "size": size(stage.output.size_bytes) if stage.output else "",
        "file": Path(stage.output.path).name if stage.output else "",
    }
