"""The pictures of the stages: what each module is worth, what each network costs and gains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from edgeres.core.figures import Point, label_points, with_grid
from edgeres.core.records.sweep import SweepFigure
from edgeres.core.records.sweep_picture import draw_sweep
from edgeres.report.canvas import ACCENT, DROPPED, INK, MUTED, drawing
from edgeres.report.summary import LesionFigure, Row, RunSummary
from edgeres.report.wording import runtime_name, signed

_SWEEP_IN = 3.9
_BAR_IN = 0.19  # height of one module's bar
_LINEAR_POINTS = 1.0  # where a logarithmic axis is linear around zero
_ROOM = 1.4  # keeps the longest bar off the names
_WIDE_RANGE = 10  # largest change over the median one from which the axis is logarithmic
_MARKERS = "osD^v"


def lesion_svg(summary: RunSummary) -> str:
    """One bar a module: the change of top-1 without it, dropped ones marked; empty without a lesion table."""
    if not summary.lesion:
        return ""
    dropped = {module.name for module in summary.modules if module.dropped}
    with drawing("lesion", 1.1 + _BAR_IN * len(summary.lesion)) as ((axes,), done):
        _draw_lesions(axes, summary.lesion, dropped)
    return done.svg


def tradeoff_svg(summary: RunSummary) -> str:
    """Top-1 against latency, each stage a point with whiskers; against file size where nothing was timed."""
    judged = [row for row in summary.rows if row.accuracy]
    timed = [row for row in judged if row.latency]
    rows = timed or judged
    if not rows:
        return ""
    with drawing("tradeoff", 3.9) as ((axes,), done):
        _draw_points(axes, rows, by_latency=bool(timed))
    return done.svg


def sweep_svg(sweep: SweepFigure) -> str:
    """Top-1 against latency for every number of modules."""
    with drawing("sweep", _SWEEP_IN) as ((axes,), done):
        draw_sweep(axes, sweep, ink=ACCENT, muted=MUTED)
    return done.svg


def _draw_lesions(axes: Any, lesion: Sequence[LesionFigure], dropped: set[str]) -> None:
    positions = range(len(lesion))
    axes.barh(
        positions,
        [entry.change_points for entry in lesion],
        height=0.72,
        color=[DROPPED if entry.module in dropped else ACCENT for entry in lesion],
        xerr=[entry.half_width_points for entry in lesion],
        error_kw={"ecolor": INK, "elinewidth": 1, "capsize": 1.5},
    )
    names = [f"{entry.module} ×" if entry.module in dropped else entry.module for entry in lesion]
    axes.set_yticks(positions, names)
    axes.set_ylim(len(lesion) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.axvline(0, color=INK, linewidth=0.8)
    with_grid(axes, "x")
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
            color=MUTED,
            annotation_clip=False,
        )


def _draw_points(axes: Any, rows: Sequence[Row], *, by_latency: bool) -> None:
    runtimes = sorted({_runtime_of(row) for row in rows if row.latency})
    for row in rows:
        marker = _MARKERS[runtimes.index(_runtime_of(row)) % len(_MARKERS)] if by_latency else "o"
        _draw_point(axes, row, marker, by_latency=by_latency)
    for index, runtime in enumerate(runtimes if by_latency else ()):
        axes.plot([], [], _MARKERS[index % len(_MARKERS)], color=ACCENT, label=runtime)
    n = max(row.accuracy.n for row in rows if row.accuracy)
    axes.set_ylabel(f"top-1, % (n = {n:,}, 95 % whiskers)")
    axes.set_xlabel(_latency_label(rows) if by_latency else "file size, MB")
    axes.margins(x=0.18, y=0.14)
    axes.set_xlim(left=0)
    with_grid(axes)
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
        color=ACCENT,
        ecolor=MUTED,
        elinewidth=1,
        markersize=6.5,
    )


def _label_points(axes: Any, rows: Sequence[Row], *, by_latency: bool) -> None:
    whiskers = [pair for row in rows for pair in _whiskers(row, by_latency=by_latency)]
    label_points(axes, [(row.name, _position(row, by_latency=by_latency)) for row in rows], whiskers)


def _whiskers(row: Row, *, by_latency: bool) -> Iterator[tuple[Point, Point]]:
    assert row.accuracy is not None
    x, y = _position(row, by_latency=by_latency)
    yield (x, 100 * row.accuracy.top1.low), (x, 100 * row.accuracy.top1.high)
    if by_latency and row.latency:
        yield (row.latency.p50_ms.low, y), (row.latency.p50_ms.high, y)


def _position(row: Row, *, by_latency: bool) -> tuple[float, float]:
    assert row.accuracy is not None
    x = row.latency.p50_ms.value if by_latency and row.latency else row.size_bytes / 1e6
    return x, 100 * row.accuracy.top1.value


def _latency_label(rows: Sequence[Row]) -> str:
    batches = sorted({row.latency.batch for row in rows if row.latency})
    return f"median latency of a call, ms (batch {', '.join(str(batch) for batch in batches)})"


def _runtime_of(row: Row) -> str:
    return runtime_name(row.latency.runtime) if row.latency else ""
