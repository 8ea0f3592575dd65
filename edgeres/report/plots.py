"""The two pictures as SVG text to be set into the page.

Colours are drawn as placeholders and come out as the page's CSS variables: a picture follows the page from
light to dark; text stays text, in the page's font. The same summary always gives the same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from edgeres.core.errors import require
from edgeres.report.summary import LesionFigure, Row, RunSummary
from edgeres.report.wording import runtime_name, signed

_INK, _MUTED, _RULE, _ACCENT, _DROPPED = "#010101", "#020202", "#030303", "#040404", "#050505"
_VARIABLES = {_INK: "--ink", _MUTED: "--muted", _RULE: "--rule", _ACCENT: "--accent", _DROPPED: "--dropped"}
_STYLE = {
    "svg.fonttype": "none",
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": _RULE,
    "axes.labelcolor": _MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": f"cycler('color', ['{_ACCENT}'])",
    "grid.color": _RULE,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "legend.frameon": False,
}
_WIDTH_IN = 5.0  # at 72 points an inch as wide as a phone: there the letters keep their size
_BAR_IN = 0.19  # height of one module's bar
_LINEAR_POINTS = 1.0  # where a logarithmic axis is linear around zero
_ROOM = 1.4  # keeps the longest bar off the names
_WIDE_RANGE = 10  # largest change over the median one from which the axis is logarithmic
_MARKERS = "osD^v"
_POINT_RADIUS = 6  # points, with a little air


def lesion_svg(summary: RunSummary) -> str:
    """One bar a module: the change of top-1 without it, dropped ones marked; empty without a lesion table."""
    if not summary.lesion:
        return ""
    dropped = {module.name for module in summary.modules if module.dropped}
    with _figure(1.1 + _BAR_IN * len(summary.lesion)) as (axes, svg):
        _draw_lesions(axes, summary.lesion, dropped)
    return _themed(svg.getvalue(), "lesion")


def tradeoff_svg(summary: RunSummary) -> str:
    """Top-1 against latency, each stage a point with whiskers; against file size where nothing was timed."""
    judged = [row for row in summary.rows if row.accuracy]
    timed = [row for row in judged if row.latency]
    rows = timed or judged
    if not rows:
        return ""
    with _figure(3.9) as (axes, svg):
        _draw_points(axes, rows, by_latency=bool(timed))
    return _themed(svg.getvalue(), "tradeoff")


@contextmanager
def _figure(height_in: float) -> Iterator[tuple[Any, io.StringIO]]:
    matplotlib = require("matplotlib", "report")
    figures = require("matplotlib.figure", "report")
    svg = io.StringIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": "edgeres"}):
        figure = figures.Figure(figsize=(_WIDTH_IN, height_in), layout="constrained")
        yield figure.add_subplot(), svg
        figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None, "Creator": None})


def _draw_lesions(axes: Any, lesion: Sequence[LesionFigure], dropped: set[str]) -> None:
    positions = range(len(lesion))
    axes.barh(
        positions,
        [entry.change_points for entry in lesion],
        height=0.72,
        color=[_DROPPED if entry.module in dropped else _ACCENT for entry in lesion],
        xerr=[entry.half_width_points for entry in lesion],
        error_kw={"ecolor": _INK, "elinewidth": 1, "capsize": 1.5},
    )
    names = [f"{entry.module} ×" if entry.module in dropped else entry.module for entry in lesion]
    axes.set_yticks(positions, names)
    axes.set_ylim(len(lesion) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.axvline(0, color=_INK, linewidth=0.8)
    axes.grid(axis="x", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    scale = _set_scale(axes, [entry.change_points for entry in lesion])
    axes.set_xlabel(f"change of top-1, points{scale} (n = {lesion[0].n:,}, 95 % whiskers)")
    _write_values(axes, lesion)


def _set_scale(axes: Any, changes: Sequence[float]) -> str:
    """Logarithmic around zero if a few lesions dwarf the rest; returns what the label says of it."""
    sizes = sorted(abs(change) for change in changes)
    if sizes[-1] < _WIDE_RANGE * max(sizes[len(sizes) // 2], _LINEAR_POINTS / _WIDE_RANGE):
        return ""
    axes.set_xscale("symlog", linthresh=_LINEAR_POINTS, linscale=0.6)
    ticks = [sign * tick for tick in (1, 3, 10, 30, 100) for sign in (1, -1)]
    low, high = axes.get_xlim()
    axes.set_xlim(left=_ROOM * low if low < 0 else low)
    shown = [0, *(tick for tick in ticks if low <= tick <= high)]
    axes.set_xticks(sorted(shown), [str(tick).replace("-", "−") for tick in sorted(shown)], minor=False)
    axes.set_xticks([], minor=True)
    return ", log scale"


def _write_values(axes: Any, lesion: Sequence[LesionFigure]) -> None:
    """The figure of each bar at the right edge."""
    for position, entry in enumerate(lesion):
        axes.annotate(
            signed(entry.change_points, 1),
            (1.0, position),
            xycoords=axes.get_yaxis_transform(),
            xytext=(4, 0),
            textcoords="offset points",
            verticalalignment="center",
            color=_MUTED,
            annotation_clip=False,
        )


def _draw_points(axes: Any, rows: Sequence[Row], *, by_latency: bool) -> None:
    runtimes = sorted({_runtime_of(row) for row in rows if row.latency})
    for row in rows:
        marker = _MARKERS[runtimes.index(_runtime_of(row)) % len(_MARKERS)] if by_latency else "o"
        _draw_point(axes, row, marker, by_latency=by_latency)
    for index, runtime in enumerate(runtimes if by_latency else ()):
        axes.plot([], [], _MARKERS[index % len(_MARKERS)], color=_ACCENT, label=runtime)
    n = max(row.accuracy.n for row in rows if row.accuracy)
    axes.set_ylabel(f"top-1, % (n = {n:,}, 95 % whiskers)")
    axes.set_xlabel(_latency_label(rows) if by_latency else "file size, MB")
    axes.margins(x=0.18, y=0.14)
    axes.set_xlim(left=0)
    axes.grid(visible=True, axis="both", linewidth=0.6)
    axes.set_axisbelow(True)
    if by_latency and len(runtimes) > 1:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(runtimes), borderaxespad=0)
    _label_points(axes, rows, by_latency=by_latency)


def _draw_point(axes: Any, row: Row, marker: str, *, by_latency: bool) -> None:
    x, y = _position(row, by_latency=by_latency)
    assert row.accuracy is not None
    top1 = row.accuracy.top1
    xerr = None
    if by_latency and row.latency:
        p50 = row.latency.p50_ms
        xerr = [[p50.value - p50.low], [p50.high - p50.value]]
    axes.errorbar(
        [x],
        [y],
        xerr=xerr,
        yerr=[[100 * (top1.value - top1.low)], [100 * (top1.high - top1.value)]],
        fmt=marker,
        color=_ACCENT,
        ecolor=_MUTED,
        elinewidth=1,
        markersize=6.5,
    )


def _label_points(axes: Any, rows: Sequence[Row], *, by_latency: bool) -> None:
    """Names beside the points, each where it covers no other name and no point, if there is such a place."""
    axes.figure.canvas.draw()
    taken = [box for row in rows for box in _point_boxes(axes, row, by_latency=by_latency)]
    for row in rows:
        label = axes.annotate(
            row.name,
            _position(row, by_latency=by_latency),
            xytext=(0, 0),
            textcoords="offset points",
            annotation_clip=False,
        )
        taken.append(_placed(label, taken))


def _placed(label: Any, taken: Sequence[Any]) -> Any:
    """Moves the label to the first free place and returns the box it then covers."""
    for dx, dy, side in _places():
        label.set(position=(dx, dy), horizontalalignment=side, verticalalignment="center")
        box = label.get_window_extent()
        inside = box.x0 > label.axes.bbox.x0 and box.x1 < label.axes.figure.bbox.x1
        if inside and not any(box.overlaps(other) for other in taken):
            break
    return box


def _places() -> Iterator[tuple[float, float, str]]:
    """Offsets in points from near to far, right of the point before left of it."""
    for distance in (0, 12, 24, 36, 48, 60):
        for dy in (distance, -distance):
            yield 9, dy, "left"
            yield -9, dy, "right"


def _point_boxes(axes: Any, row: Row, *, by_latency: bool) -> list[Any]:
    """What the point and its whiskers cover."""
    transforms = require("matplotlib.transforms", "report")
    assert row.accuracy is not None
    x, y = _position(row, by_latency=by_latency)
    ends = [[(x, 100 * row.accuracy.top1.low), (x, 100 * row.accuracy.top1.high)]]
    if by_latency and row.latency:
        ends.append([(row.latency.p50_ms.low, y), (row.latency.p50_ms.high, y)])
    whiskers = [transforms.Bbox(axes.transData.transform(pair)).padded(1) for pair in ends]
    centre = axes.transData.transform((x, y))
    return [transforms.Bbox([centre, centre]).padded(_POINT_RADIUS), *whiskers]


def _position(row: Row, *, by_latency: bool) -> tuple[float, float]:
    assert row.accuracy is not None
    x = row.latency.p50_ms.value if by_latency and row.latency else row.size_bytes / 1e6
    return x, 100 * row.accuracy.top1.value


def _latency_label(rows: Sequence[Row]) -> str:
    batches = sorted({row.latency.batch for row in rows if row.latency})
    return f"median latency of a call, ms (batch {', '.join(str(batch) for batch in batches)})"


def _runtime_of(row: Row) -> str:
    return runtime_name(row.latency.runtime) if row.latency else ""


def _themed(svg: str, name: str) -> str:
    """Only the <svg> element: no size, metadata or global style; ids made unique; colours as variables."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) (?:width|height)="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) (?:width|height)="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", svg)
    svg = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    for placeholder, variable in _VARIABLES.items():
        svg = svg.replace(placeholder, f"var({variable})")
    return svg.strip()
