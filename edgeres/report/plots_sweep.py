"""The picture of a sweep: accuracy against latency, and the line of what is worth having."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgeres.core.figures import label_points, with_grid
from edgeres.report.canvas import ACCENT, MUTED, drawing
from edgeres.report.sweeps import SweepFigure, SweepPoint, best_of

_HEIGHT_IN = 3.9


def sweep_svg(sweep: SweepFigure) -> str:
    """Each number of modules a point with whiskers: full on the Pareto front, hollow off it."""
    with drawing("sweep", _HEIGHT_IN) as ((axes,), done):
        _draw(axes, sweep)
    return done.svg


def _draw(axes: Any, sweep: SweepFigure) -> None:
    if sweep.recover:
        axes.plot(
            [point.latency_ms.value for point in sweep.points],
            [100 * point.top1_bare for point in sweep.points],
            "x",
            color=MUTED,
            markersize=5,
            label="before recovery",
        )
    front = best_of(sweep.points)
    axes.plot(
        [point.latency_ms.value for point in front],
        [100 * point.top1.value for point in front],
        color=ACCENT,
        linewidth=1.2,
        drawstyle="steps-post",
        label="Pareto front",
    )
    for is_best, label in ((True, "on it"), (False, "beaten by another")):
        _draw_points(axes, [one for one in sweep.points if one.is_best == is_best], label, hollow=not is_best)
    axes.set_xlabel(f"median latency of a call, ms (batch {sweep.batch}, threads {sweep.threads})")
    axes.set_ylabel(f"top-1, % (n = {sweep.n:,}, 95 % whiskers)")
    axes.margins(x=0.12, y=0.14)
    with_grid(axes)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0)
    named = [(str(one.count), (one.latency_ms.value, 100 * one.top1.value)) for one in sweep.points]
    whiskers = [
        ((one.latency_ms.value, 100 * one.top1.low), (one.latency_ms.value, 100 * one.top1.high))
        for one in sweep.points
    ]
    label_points(axes, named, whiskers)


def _draw_points(axes: Any, points: Sequence[SweepPoint], label: str, *, hollow: bool) -> None:
    if not points:
        return
    x, y = [point.latency_ms.value for point in points], [100 * point.top1.value for point in points]
    xerr = [
        [point.latency_ms.value - point.latency_ms.low for point in points],
        [point.latency_ms.high - point.latency_ms.value for point in points],
    ]
    yerr = [
        [100 * (point.top1.value - point.top1.low) for point in points],
        [100 * (point.top1.high - point.top1.value) for point in points],
    ]
    axes.errorbar(x, y, xerr=xerr, yerr=yerr, fmt="none", ecolor=MUTED, elinewidth=1)
    fill = "none" if hollow else ACCENT
    axes.plot(x, y, "o", color=ACCENT, markerfacecolor=fill, markersize=6.5, label=label)
