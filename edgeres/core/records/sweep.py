"""What a sweep found: accuracy and latency for each number of modules, and which of them are worth having."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import ConfigDict

from edgeres.core.config import Record
from edgeres.core.metrics import Accuracy
from edgeres.core.statistics import Interval

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
    low, high = final.accuracy.interval
    return SweepPoint(
        count=row.count,
        dropped=row.dropped,
        top1=Interval(value=final.accuracy.top1, low=low, high=high),
        top1_bare=row.bare.accuracy.top1,
        **final.model_dump(include={"change_points", "half_width_points"}),
        **row.model_dump(include={"latency_ms", "ratio"}),
    )
