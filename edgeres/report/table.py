"""The one table: for the terminal, as Markdown, as CSV."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgeres.core.plain import csv_text
from edgeres.report.boards_text import board_cells, board_columns, boards_table, flat_board
from edgeres.report.figures import Change
from edgeres.report.summary import Row, RunSummary
from edgeres.report.wording import (
    COLUMNS,
    cells,
    columns_of,
    flat,
    flat_interval,
    flat_latency,
    markdown_table,
    markdown_text,
    terminal_table,
)

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

_TERMINAL = {  # title: (what shares the column, its width), 80 characters in all; the first takes what more there is
    "Stage": (("stage", "what", "precision"), {"min_width": 11}),
    COLUMNS["top1"]: (("top1",), {"width": 13}),
    "Cost": (("params", "macs", "size"), {"width": 7}),
    "Latency ms": (("latency",), {"width": 13}),
    "Against first": (("first",), {"width": 13}),
    "Against previous": (("previous",), {"width": 13}),
}


def table_from(summary: RunSummary) -> RenderableType:
    """For `rich.print`: six columns of a few lines each, and below them what boards measured last."""
    newest = [one for one in summary.boards if one.is_newest]
    if not newest:
        return _stages_table(summary)
    from rich.console import Group

    return Group(_stages_table(summary), "", boards_table(newest))


def _stages_table(summary: RunSummary) -> Table:
    texts, titles = [cells(row) for row in summary.rows], {COLUMNS["top1"]: columns_of(summary.rows)["top1"]}
    rows = [[tuple(line for name in names for line in text[name]) for names, _ in _TERMINAL.values()] for text in texts]
    columns = [(titles.get(title, title), width) for title, (_, width) in _TERMINAL.items()]
    return terminal_table(summary.run, columns, rows)


def markdown_from(summary: RunSummary) -> str:
    """The whole table with the headline above it and what is missing below it."""
    lines = [f"# {markdown_text(summary.run)}", "", markdown_text(summary.headline), ""]
    rows = [cells(row) for row in summary.rows]
    columns = columns_of(summary.rows)
    lines += markdown_table(columns.values(), [[texts[name] for name in columns] for texts in rows])
    if summary.boards:
        boards = [board_cells(board).values() for board in summary.boards]
        lines += ["", "## On boards", "", *markdown_table(board_columns(summary.boards), boards)]
    lines += ["", *(f"- {markdown_text(line)}" for line in _conditions(summary))]
    return "\n".join(lines) + "\n"


def csv_from(summary: RunSummary) -> str:
    """One line a row, plain numbers with their units in the column names; empty where not measured."""
    return csv_text([_flat(row) for row in summary.rows])


def boards_csv_from(summary: RunSummary) -> str:
    """The same of what boards measured."""
    return csv_text([flat_board(board) for board in summary.boards])


def _conditions(summary: RunSummary) -> Iterator[str]:
    """What the figures belong to, then what is missing."""
    yield "Intervals are 95 %: Wilson for top-1, paired for its changes, bootstrap over rounds for latency."
    yield from (f"Latency: {condition}." for condition in summary.timed_conditions)
    judged = {f"{row.accuracy.dataset} {row.accuracy.split}" for row in summary.rows if row.accuracy}
    yield from (f"Accuracy: {condition}." for condition in sorted(judged))
    near = {f"{row.closeness.dataset} {row.closeness.split}" for row in summary.rows if row.closeness}
    yield from (f"Closeness to the first network: {condition}." for condition in sorted(near))
    yield from (f"Not run: {one.name}, {one.what}: {one.why}; {one.todo}." for one in summary.absent)
    yield from (f"Warning: {warning}." for warning in summary.warnings)
    yield from (f"Missing: {problem}." for problem in summary.problems)


def _flat(row: Row) -> dict[str, object]:
    accuracy, near, own, latency = row.accuracy, row.closeness, row.metric, row.latency
    first, previous = row.versus_first, row.versus_previous
    return {
        **flat(row, "name", "stage", "what", "precision", "sha256", "parent", "params", "macs", "size_bytes"),
        **flat_interval(accuracy and accuracy.top1, "top1", "top1_low", "top1_high"),
        **flat(accuracy, "top5", "n"),
        **flat_latency(latency),
        **flat(latency, "batch", "runtime", "machine"),
        **_flat_change("points_vs_first", first.points),
        **_flat_change("points_vs_previous", previous.points),
        **_flat_change("latency_ratio_vs_first", first.latency_ratio),
        **_flat_change("latency_ratio_vs_previous", previous.latency_ratio),
        **flat_interval(first.size_ratio, "size_ratio_vs_first"),
        **flat(row, "accuracy_missing", "latency_missing"),
        **({"closeness": near.measure, "closeness_mean": near.mean, "closeness_worst": near.worst} if near else {}),
        **({"metric": own.name, "metric_value": own.value, "metric_half_width": own.half_width} if own else {}),
    }


def _flat_change(name: str, change: Change | None) -> dict[str, object]:
    return {**flat_interval(change, name, f"{name}_low", f"{name}_high"), f"{name}_is": change.versus if change else ""}
