"""What a sweep found: accuracy and latency for each number of modules, which are worth having, and their picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import ConfigDict

from edgeres.core.config import Record
from edgeres.core.figures import draw_points, label_points, with_grid
from edgeres.core.metrics import Accuracy, Interval

SWEEP_NAME = "sweep.json"


class Judged(Record):
    """Top-1 on val and its change against the whole network, paired, in points."""

    accuracy: Accuracy
    change_points: float
    half_width_points: float

    @property
    def lost_points(self) -> float:
        """Points lost, positive: without a minus before a zero."""
        return 0.0 - self.change_points


class SweepRow(Record):
    """One number of modules. `score` is the search's, on train; `ratio` is latency over the whole network's."""

    count: int
    dropped: tuple[str, ...]
    score: float | None
    params: int
    macs: int
    checkpoint: str
    bare: Judged
    recovered: Judged | None = None
    latency_ms: Interval | None = None
    ratio: Interval | None = None

    @property
    def final(self) -> Judged:
        """After recovery if there was one."""
        return self.recovered or self.bare


class Sweep(Record):
    """Content of sweep.json; the first row is the whole network."""

    kind: Literal["sweep"] = "sweep"
    schema_version: int = 1
    model_sha256: str
    recover: tuple[str, ...]
    runtime: str
    machine: str
    batch: int
    threads: int
    rows: tuple[SweepRow, ...]


class SweepPoint(Record):
    """One number of modules; `is_best`: no other point is both as accurate and as fast, and better in one of them."""

    model_config = ConfigDict(allow_inf_nan=False)

    count: int
    dropped: tuple[str, ...]
    top1: Interval
    change_points: float
    half_width_points: float
    latency_ms: Interval
    ratio: Interval
    top1_bare: float
    is_best: bool = False


class SweepFigure(Record):
    """All points, the whole network first; medians of one session, so they compare."""

    stage: str
    recover: tuple[str, ...]
    n: int
    dataset: str
    runtime: str
    machine: str
    batch: int
    threads: int
    points: tuple[SweepPoint, ...]


def lines_of(result: Sweep) -> list[str]:
    """The table for people, a line a row."""
    lines = ["drop   top-1 %     lost, points    latency p50    of whole   modules of this size"]
    for row in result.rows:
        final, latency, ratio = row.final, row.latency_ms, row.ratio
        lost = f"{final.lost_points:6.2f} ± {final.half_width_points:.2f}" if row.count else ""
        time = f"{latency.value:8.3f} ms" if latency else "not timed"
        share = f"{ratio.value:.3f}" if ratio else ""
        names = ", ".join(row.dropped)
        lines.append(f"{row.count:4}   {100 * final.accuracy.top1:7.2f}   {lost:15} {time:>13}   {share:>8}   {names}")
    how = f"recovered by {', '.join(result.recover)}" if result.recover else "without recovery"
    n = result.rows[0].bare.accuracy.n
    lines.append(f"{how}; n = {n:,} of val; {result.runtime}, batch {result.batch}, {result.threads} threads")
    return lines


def figure_of(sweep: Sweep, stage: str) -> SweepFigure:
    """The points of a sweep that was timed; raises ValidationError for a figure that is missing or not finite."""
    points = [_point(row) for row in sweep.rows]
    best, judged = {point.count for point in best_of(points)}, sweep.rows[0].final.accuracy
    return SweepFigure(
        stage=stage,
        n=judged.n,
        dataset=f"{judged.dataset} {judged.split}",
        points=tuple(point.model_copy(update={"is_best": point.count in best}) for point in points),
        **sweep.model_dump(include={"recover", "runtime", "machine", "batch", "threads"}),
    )


def best_of(points: Sequence[SweepPoint]) -> list[SweepPoint]:
    """The Pareto front, fastest first: points that no other one beats in accuracy without being slower.

    It is made of the measured values themselves; points whose intervals overlap may change places.
    """
    front: list[SweepPoint] = []
    for point in sorted(points, key=lambda one: (one.latency_ms.value, -one.top1.value)):
        if not front or point.top1.value > front[-1].top1.value:
            front.append(point)
    return front


def _point(row: SweepRow) -> SweepPoint:
    final = row.final
    return SweepPoint(
        count=row.count,
        dropped=row.dropped,
        top1=final.accuracy.interval,
        top1_bare=row.bare.accuracy.top1,
        **final.model_dump(include={"change_points", "half_width_points"}),
        **row.model_dump(include={"latency_ms", "ratio"}),
    )


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
