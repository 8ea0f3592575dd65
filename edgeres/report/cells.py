"""Cells of a few lines each: as a table for the terminal, as Markdown, and figures as CSV.

What is in a cell may be somebody else's: it stays there, on its own line, and is no HTML and no link.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from edgeres.core.plain import one_line
from edgeres.report.figures import LatencyFigure

if TYPE_CHECKING:
    from rich.table import Table

Lines = tuple[str, ...]
Columns = Iterable[tuple[str, dict[str, Any]]]  # title, and its width or min_width where there is one


def terminal_table(title: str, columns: Columns, rows: Iterable[Sequence[Lines]]) -> Table:
    """For `rich.print`."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text(one_line(title)) if title else None, title_justify="left", padding=(0, 1, 0, 0), pad_edge=False
    )
    table.box, table.show_edge, table.show_lines = SIMPLE_HEAD, False, True
    for name, width in columns:
        table.add_column(Text(one_line(name)), overflow="fold", **width)
    for cells in rows:
        table.add_row(*(Text("\n".join(_tight(one_line(line)) for line in lines)) for lines in cells))
    return table


def markdown_table(titles: Iterable[str], rows: Iterable[Iterable[Lines]]) -> list[str]:
    """Its lines, the lines of a cell one below the other."""
    head = [(title,) for title in titles]
    return [_markdown_row(head), "|" + " --- |" * len(head), *map(_markdown_row, rows)]


def markdown_text(text: str) -> str:
    """`text` on one line, without HTML and links."""
    return one_line(" ".join(text.split())).replace("<", "&lt;").replace("](", "]\\(")


def flat(found: object, *names: str) -> dict[str, object]:
    """Figures of a record by name for CSV, None for one that is not there."""
    return {name: getattr(found, name, None) for name in names}


def flat_interval(found: object, *names: str) -> dict[str, object]:
    """Value, low and high of a figure under these names, None for one that is not there."""
    return {name: getattr(found, end, None) for name, end in zip(names, ("value", "low", "high"), strict=False)}


def flat_latency(latency: LatencyFigure | None) -> dict[str, object]:
    """Median and p99 in milliseconds; no p99 of too few calls."""
    p99 = latency.p99_ms if latency and latency.p99_ms.is_known else None
    p50 = flat_interval(latency and latency.p50_ms, "p50_ms", "p50_low_ms", "p50_high_ms")
    return {**p50, **flat_interval(p99, "p99_ms")}


def _markdown_row(cells: Iterable[Lines]) -> str:
    texts = ("<br>".join(markdown_text(line).replace("|", "\\|") for line in lines) for lines in cells)
    return f"| {' | '.join(texts)} |"


def _tight(line: str) -> str:
    """An interval without its blank, for narrow columns."""
    return line.replace(", ", ",") if line.startswith("[") else line
