"""The picture of a sweep: accuracy against latency, and the line of what is worth having."""

from __future__ import annotations

from typing import Any

from edgeres.core.figures import draw_points, label_points, with_grid
from edgeres.core.records.sweep import SweepFigure, best_of


def draw_sweep(axes: Any, sweep: SweepFigure, *, ink: str, muted: str) -> None:
    """Each number of modules a point with whiskers: full on the Pareto front, hollow off it; `ink` is theirs."""
    spots = {one.count: (str(one.count), one.latency_ms, one.top1.times(100)) for one in sweep.points}
    if sweep.recover:
        bare = [100 * point.top1_bare for point in sweep.points]
        x = [point.latency_ms.value for point in sweep.points]
        axes.plot(x, bare, "x", color=muted, markersize=5, label="before recovery")
    axes.plot(
        [point.latency_ms.value for point in best_of(sweep.points)],
        [100 * point.top1.value for point in best_of(sweep.points)],
        color=ink,
        linewidth=1.2,
        drawstyle="steps-post",
        label="Pareto front",
    )
    for is_best, label, fill in ((True, "on it", ink), (False, "beaten by another", "none")):
        shown = [spots[one.count] for one in sweep.points if one.is_best == is_best]
        if shown:
            draw_points(axes, shown, "o", ink=ink, muted=muted, label=label, markerfacecolor=fill)
    axes.set_xlabel(f"median latency of a call, ms\n({sweep.runtime}, batch {sweep.batch}, threads {sweep.threads})")
    axes.set_ylabel(f"top-1, % (n = {sweep.n:,}, 95 % whiskers)")
    axes.margins(x=0.12, y=0.14)
    with_grid(axes)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0)
    label_points(axes, list(spots.values()))
