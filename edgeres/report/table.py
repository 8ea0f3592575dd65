"""The one table: for the terminal, as Markdown, as CSV."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgeres.core.files import csv_text
from edgeres.report.boards_text import BOARD_COLUMNS, board_cells, boards_table, flat_board
from edgeres.report.figures import Change
from edgeres.report.summary import Row, RunSummary
from edgeres.report.wording import COLUMNS, Lines, cells, tight

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

_TERMINAL = {  # title: (what shares the column, narrowest width that breaks no word), 80 characters in all
    "Stage": (("stage", "what", "precision"), 11),
    "Top-1 %": (("top1",), 13),
    "Cost": (("params", "macs", "size"), 7),
    "Latency ms": (("latency",), 11),
    "Against first": (("first",), 13),
    "Against previous": (("previous",), 13),
}


def table_from(summary: RunSummary) -> RenderableType:
    """For `rich.print`: six columns of a few lines each, and below them what boards measured."""
    if not summary.boards:
        return _stages_table(summary)
    from rich.console import Group

    return Group(_stages_table(summary), "", boards_table(summary.boards))


def _stages_table(summary: RunSummary) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(title=summary.run, title_justify="left")
    table.box, table.show_edge, table.show_lines, table.padding = SIMPLE_HEAD, False, True, (0, 1, 0, 0)
    for title, (_, min_width) in _TERMINAL.items():
        table.add_column(title, overflow="fold", min_width=min_width)
    for row in summary.rows:
        texts = cells(row)
        groups = [[tight(line) for name in names for line in texts[name]] for names, _ in _TERMINAL.values()]
        table.add_row(*(Text("\n".join(lines)) for lines in groups))
    return table


def markdown_from(summary: RunSummary) -> str:
    """The whole table with the headline above it and what is missing below it."""
    rows = [cells(row) for row in summary.rows]
    lines = [f"# {_text(summary.run)}", "", _text(summary.headline), ""]
    lines += [_markdown_row([(title,) for title in COLUMNS.values()]), "|" + " --- |" * len(COLUMNS)]
    lines += [_markdown_row([texts[name] for name in COLUMNS]) for texts in rows]
    if summary.boards:
        lines += ["", "## On boards", ""]
        lines += [_markdown_row([(title,) for title in BOARD_COLUMNS]), "|" + " --- |" * len(BOARD_COLUMNS)]
        lines += [_markdown_row(list(board_cells(board).values())) for board in summary.boards]
    lines += ["", *(f"- {_text(line)}" for line in _conditions(summary))]
    return "\n".join(lines) + "\n"


def csv_from(summary: RunSummary) -> str:
    """One line a row, plain numbers with their units in the column names; empty where not measured."""
    return csv_text([_flat(row) for row in summary.rows])


def boards_csv_from(summary: RunSummary) -> str:
    """The same of what boards measured."""
    return csv_text([flat_board(board) for board in summary.boards])


def _markdown_row(texts: list[Lines]) -> str:
    return "| " + " | ".join("<br>".join(_text(line).replace("|", "\\|") for line in lines) for lines in texts) + " |"


def _text(text: str) -> str:
    """`text` on one line, without HTML and links: it may be somebody else's."""
    return " ".join(text.split()).replace("<", "&lt;").replace("](", "]\\(")


def _conditions(summary: RunSummary) -> Iterator[str]:
    """What the figures belong to, then what is missing."""
    yield "Intervals are 95 %: Wilson for top-1, paired for its changes, bootstrap over rounds for latency."
    timed = {
        f"{one.runtime}, batch {one.batch}, threads {one.threads}, {one.machine}"
        for row in summary.rows
        if (one := row.latency)
    }
    yield from (f"Latency: {condition}." for condition in sorted(timed))
    judged = {f"{row.accuracy.dataset} {row.accuracy.split}" for row in summary.rows if row.accuracy}
    yield from (f"Accuracy: {condition}." for condition in sorted(judged))
    yield from (f"Not run: {one.name}, {one.what}: {one.why}; {one.todo}." for one in summary.absent)
    yield from (f"Warning: {warning}." for warning in summary.warnings)
    yield from (f"Missing: {problem}." for problem in summary.problems)


def _flat(row: Row) -> dict[str, object]:
    accuracy, latency = row.accuracy, row.latency
    return {
        **row.model_dump(include={"name", "stage", "what", "precision", "sha256", "parent"}),
        "params": row.params,
        "macs": row.macs,
        "size_bytes": row.size_bytes,
        "top1": accuracy.top1.value if accuracy else None,
        "top1_low": accuracy.top1.low if accuracy else None,
        "top1_high": accuracy.top1.high if accuracy else None,
        "top5": accuracy.top5 if accuracy else None,
        "n": accuracy.n if accuracy else None,
        "p50_ms": latency.p50_ms.value if latency else None,
        "p50_low_ms": latency.p50_ms.low if latency else None,
        "p50_high_ms": latency.p50_ms.high if latency else None,
        "p99_ms": latency.p99_ms.value if latency and latency.p99_ms.is_known else None,
        "batch": latency.batch if latency else None,
        "runtime": latency.runtime if latency else None,
        "machine": latency.machine if latency else None,
        **_flat_change("points_vs_first", row.versus_first.points),
        **_flat_change("points_vs_previous", row.versus_previous.points),
        **_flat_change("latency_ratio_vs_first", row.versus_first.latency_ratio),
        **_flat_change("latency_ratio_vs_previous", row.versus_previous.latency_ratio),
        "size_ratio_vs_first": row.versus_first.size_ratio.value if row.versus_first.size_ratio else None,
        "accuracy_missing": row.accuracy_missing,
        "latency_missing": row.latency_missing,
    }


def _flat_change(name: str, change: Change | None) -> dict[str, object]:
    return {
        name: change.value if change else None,
        f"{name}_low": change.low if change else None,
        f"{name}_high": change.high if change else None,
    }
