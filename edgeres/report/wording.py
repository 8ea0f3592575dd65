"""Figures in words: units, signs and intervals as they stand in the table, the page and the headline.

A change is after minus before and always has its sign: −0.76 points of top-1. What is called lost, a loss or a cost is
before minus after: 0.76 points lost.

A cell is a few lines, in the terminal, as Markdown and on the page. What is in it may be somebody else's: it stays
there, on its own line, and is no HTML and no link.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from edgeres.bench.validity import INVALID
from edgeres.core.metrics import (
    Accuracy,
    Closeness,
    Interval,
    Latency,
    Likened,
    Say,
    in_style,
    places_more,
    threads_text,
    wilson,
)
from edgeres.core.safe_text import one_line, with_ascii_minus
from edgeres.core.statistics import P99_CALLS
from edgeres.report.boards import UNSURE
from edgeres.report.figures import Change, Changes, LatencyFigure, Percentile
from edgeres.report.summary import Row

if TYPE_CHECKING:
    from rich.table import Table

Lines = tuple[str, ...]
Columns = Iterable[tuple[str, dict[str, Any]]]  # title, and its width or min_width where there is one
_UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
_TENS = 10
_SAME = 0.005  # ratios closer to 1 than half a percent are called no change
Figured = Interval | Percentile
COLUMNS: dict[str, str] = {
    "stage": "Stage",
    "what": "What changed",
    "latency": "Latency ms",
    "first": "Against the first",
    "top1": "Top-1 %",
    "previous": "Against the previous",
    "size": "File",
    "params": "Parameters",
    "macs": "MACs",
    "precision": "Precision",
    "top5": "Top-5 %",
}


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
        table.add_row(*(Text("\n".join(_tight(with_ascii_minus(one_line(line))) for line in lines)) for lines in cells))
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


def cells(row: Row) -> dict[str, Lines]:
    """The row's text by column of COLUMNS: the figure first, then what qualifies it."""
    doubt = doubt_on(row.latency) if row.latency else ""
    at_first, just_before = row.versus_first.size_ratio, row.versus_previous.size_ratio  # sizes can always be compared
    return {
        "stage": (row.name,),
        "what": (row.what or "–",),
        "precision": (row.precision or "–",),
        "top1": _judged(row),
        "top5": (percent(row.accuracy.top5) if row.accuracy else "–",),
        "params": (count(row.params),),
        "macs": (count(row.macs) if row.macs else "–",),
        "size": (size(row.size_bytes),),
        "latency": _latency(row),
        "first": changes_text(row.versus_first, against=at_first.versus if at_first else "", doubt=doubt),
        "previous": changes_text(row.versus_previous, against=just_before.versus if just_before else "", doubt=doubt),
    }


def _judged(row: Row) -> Lines:
    own = (row.metric.text,) if row.metric else ()
    if row.closeness:
        return *closeness_lines(row.closeness), *own
    return *(top1_lines(row.accuracy.top1, row.accuracy.n) if row.accuracy else (row.accuracy_missing,)), *own


def percent(fraction: float) -> str:
    """Two decimals, no sign."""
    return f"{100 * fraction:.2f}"


def count(number: int) -> str:
    """Three significant digits with k, M or G."""
    for factor, unit in _UNITS:
        if number >= factor:
            return f"{milliseconds(number / factor)} {unit}"
    return str(number)


def size(size_bytes: int) -> str:
    """Decimal units, three significant digits."""
    return f"{count(size_bytes)}B" if size_bytes >= 1000 else f"{size_bytes} B"


def signed(value: float, decimals: int | None = None, *, more: int = 0) -> str:
    """With a sign always, a true minus; what rounds to nothing has none. Two decimals, one from ten on."""
    places = decimals if decimals is not None else 2 if abs(value) < _TENS else 1
    text = f"{abs(value):.{places + more}f}"
    if float(text) == 0:
        return text
    return ("−" if value < 0 else "+") + text


def lost(points: float, decimals: int = 1, *, more: int = 0) -> str:
    """Points lost, positive as in `--max-loss`; what is gained has a minus."""
    return signed(points, decimals, more=more).removeprefix("+")


def milliseconds(value: float, *, more: int = 0) -> str:
    """Three significant digits."""
    decimals = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:.{decimals + more}f}"


def figure_lines(figure: Figured, say: Say, before: str = "", after: str = "") -> Lines:
    """`p50 1.23`, `[1.22, 1.25]`, numbers as they are said; no brackets without an interval."""
    if figure.low is None or figure.high is None:
        return (f"{before}{say(figure.value)}{after}",)
    more = places_more(figure.low, figure.high, say)
    value, low, high = (say(number, more=more) for number in (figure.value, figure.low, figure.high))
    return f"{before}{value}{after}", f"[{low}, {high}]"


def percent_lines(fraction: Interval, after: str = "") -> Lines:
    """`93.33`, `[91.20, 94.90]`."""
    return figure_lines(fraction.times(100), in_style(".2f"), after=after)


def points(change: Change | Interval) -> Lines:
    """`−0.32 points`, `[−0.90, +0.26]`."""
    lines = figure_lines(change, signed, after=" points")
    return (lines[0], "right on the same images") if change.low is not None and change.low == change.high else lines


def speed(change: Change) -> Lines:
    """How many times as fast, from a ratio of latencies: `speed ×1.42`, `[1.40, 1.45]`."""
    low, high = (1 / end if end else None for end in (change.high, change.low))
    return figure_lines(Percentile(value=1 / change.value, low=low, high=high), times, "speed ×")


def times(factor: float, *, more: int = 0) -> str:
    """How many times as fast, or as small, and an end of its interval: two decimals, one from ten on."""
    return f"{factor:.{(2 if factor < _TENS else 1) + more}f}"


def changes_text(changes: Changes, against: str = "", *, doubt: str = "") -> Lines:
    """A figure and its interval for all that can be compared; if not with the row `against`, it says with which.

    What `doubt_on` says of the latency stands below the speed.
    """
    lines: Lines = ()
    for change, worded in ((changes.points, points), (changes.latency_ratio, speed)):
        if change:
            figure, *interval = worded(change)
            lines += (f"{figure} to {change.versus}" if against not in {"", change.versus} else figure, *interval)
            lines += (doubt,) if doubt and worded is speed else ()
    if changes.size_ratio:
        lines += (f"size ×{changes.size_ratio.value:.2f}",)
    return lines or ("–",)


def doubt_on(latency: LatencyFigure) -> str:
    """What stands beside every speed of a session that was not valid, or of which that is not known."""
    return "invalid session" if latency.verdict else UNSURE if UNSURE in latency.note else ""


def doubt_in(latency: Latency) -> str:
    """The verdict of a session that was not valid, UNSURE where that is not known; its note is that of the session."""
    return latency.note if latency.note.startswith(INVALID) else UNSURE if UNSURE in latency.note else ""


def is_same(ratio: float) -> bool:
    """Whether a ratio is no change worth a word."""
    return abs(ratio - 1) < _SAME


def runtime_name(runtime: str) -> str:
    """The runtime without its version: `torch`, `onnxruntime`, `tensorrt on desk`."""
    _, on, board = runtime.partition(" on ")
    return runtime.partition(" ")[0] + on + board


def interval_lines(name: str, figure: Interval | Percentile) -> Lines:
    """`p50 1.23`, `[1.22, 1.25]`, in milliseconds."""
    return figure_lines(figure, milliseconds, f"{name} ")


def top1_lines(top1: Interval, n: int) -> Lines:
    """`93.33`, `[91.20, 94.90]` in percent, `n = 1,000`."""
    return *percent_lines(top1), f"n = {n:,}"


def p99_lines(latency: LatencyFigure) -> Lines:
    """The 99th percentile, or how many calls it takes."""
    return interval_lines("p99", latency.p99_ms) if latency.p99_ms.is_known else ("p99 needs", f"{P99_CALLS} calls")


def _latency(row: Row) -> Lines:
    if row.latency is None:
        return (row.latency_missing,)
    return (
        *interval_lines("p50", row.latency.p50_ms),
        *p99_lines(row.latency),
        f"n = {row.latency.samples:,}",
        runtime_name(row.latency.runtime),
        *filter(None, [doubt_on(row.latency)]),
    )


def accuracy_line(accuracy: Accuracy) -> str:
    """`top-1 89.38 % (95 %: 88.50 to 90.20), top-5 99.50 %, n = 5000, folder:x val, onnxruntime 1.32 cpu`.

    A top-5 of all images, as five classes or fewer always have, tells nothing and is left out.
    """
    top5 = f", top-5 {100 * accuracy.top5:.2f} %" if accuracy.top5 < 1 else ""
    return (
        f"top-1 {100 * accuracy.top1:.2f} % ({accuracy.interval.times(100).bounds('.2f')}){top5}, "
        f"n = {accuracy.n}, {accuracy.dataset} {accuracy.split}, {accuracy.runtime}"
    )


def closeness_line(one: Closeness) -> str:
    """`cosine 0.99120, 1 in 100 < 0.97120 to the network it comes from, n = 5000, images:x val, onnxruntime 1.32`."""
    where = f"n = {one.n}, {one.dataset} {one.split}, {one.runtime}"
    if one.is_of_itself:
        return f"kept as what later networks are held against ({_LIKENED[one.measure]}), {where}"
    return f"{', '.join(_closeness(one))} to the network it comes from{_parts(one)}, {where}"


def closeness_text(one: Closeness) -> str:
    """`cosine 0.99120, 1 in 100 < 0.97120 on 5,000 images of images:x val`."""
    return f"{', '.join(_closeness(one))}{_parts(one)} on {one.n:,} images of {one.dataset} {one.split}"


def closeness_lines(one: Closeness) -> Lines:
    """The same as a cell: the figure, then its worst hundredth, `n = 5,000`."""
    if one.is_of_itself:
        return "reference", f"n = {one.n:,}"
    return *_closeness(one), f"n = {one.n:,}"


def _closeness(one: Closeness) -> Lines:
    if one.measure == "guess":
        same, bounds = percent_lines(wilson(round(one.mean * one.n), one.n), after=" %")
        return f"same guess {same}", bounds
    return f"{_LIKENED[one.measure]} {one.mean:.5f}", f"{_WORST[one.measure]} {one.worst:.5f}"


def _parts(one: Closeness) -> str:
    """` (boxes 0.00120, scores 0.00010)` of several outputs."""
    return f" ({', '.join(f'{name} {value:.5f}' for name, value in one.parts.items())})" if one.parts else ""


def columns_of(rows: Sequence[Row]) -> dict[str, str]:
    """COLUMNS, with another title where networks are judged by how near they are to one of them.

    Without a top-5 where it is all of the images in every row.
    """
    likened = {"top1": "Closeness"} if any(row.closeness for row in rows) else {}
    told = any(row.accuracy and row.accuracy.top5 < 1 for row in rows)
    return {name: likened.get(name, title) for name, title in COLUMNS.items() if told or name != "top5"}


_LIKENED: dict[Likened, str] = {"cosine": "cosine", "error": "rel. error", "guess": "same guess"}
_WORST: dict[Likened, str] = {"cosine": "1 in 100 <", "error": "1 in 100 >"}


def latency_line(latency: Latency) -> str:
    """`p50 1.234 ms, p99 1.500 ms, batch 1, n = 400, onnxruntime 1.32 cpu, 2 threads`."""
    is_enough = len(latency.samples_ms) >= P99_CALLS
    p99 = f"p99 {latency.p99_ms:.3f} ms" if is_enough else f"p99 needs {P99_CALLS} calls"
    said = f"n = {len(latency.samples_ms)}", latency.runtime, threads_text(latency.threads)
    text = f"p50 {latency.p50_ms:.3f} ms, {p99}, batch {latency.batch}, {', '.join(filter(None, said))}"
    return f"{text} ({latency.note})" if latency.note else text
