"""The picture of a sweep: accuracy against latency, and the line of what is worth having."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgeres.core.figures import label_points, with_grid
from edgeres.core.records.sweep import SweepFigure, SweepPoint, best_of


def draw_sweep(axes: Any, sweep: SweepFigure, *, ink: str, muted: str) -> None:
    """Each number of modules a point with whiskers: full on the Pareto front, hollow off it; `ink` is theirs."""
    if sweep.recover:
        axes.plot(
            [point.latency_ms.value for point in sweep.points],
            [100 * point.top1_bare for point in sweep.points],
            "x",
            color=muted,
            markersize=5,
            label="before recovery",
        )
    front = best_of(sweep.points)
    axes.plot(
        [point.latency_ms.value for point in front],
        [100 * point.top1.value for point in front],
        color=ink,
        linewidth=1.2,
        drawstyle="steps-post",
        label="Pareto front",
    )
    for is_best, label in ((True, "on it"), (False, "beaten by another")):
        _draw_points(axes, [one for one in sweep.points if one.is_best == is_best], label, ink=ink, muted=muted)
    axes.set_xlabel(f"median latency of a call, ms\n({sweep.runtime}, batch {sweep.batch}, threads {sweep.threads})")
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


def _draw_points(axes: Any, points: Sequence[SweepPoint], label: str, *, ink: str, muted: str) -> None:
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
    axes.errorbar(x, y, xerr=xerr, yerr=yerr, fmt="none", ecolor=muted, elinewidth=1)
    fill = ink if points[0].is_best else "none"
    axes.plot(x, y, "o", color=ink, markerfacecolor=fill, markersize=6.5, label=label)
