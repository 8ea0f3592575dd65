"""The sweep of a run: accuracy and latency for every number of dropped modules, and which of them are worth having."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgeres.core.config import record_from_json
from edgeres.core.errors import InputError
from edgeres.core.metrics import Accuracy
from edgeres.core.statistics import Interval
from edgeres.report.folder import Figure, FinishedStage, RunFolder, figure_from, is_possible

_FILE = "sweep.json"


class SweepPoint(Figure):
    """One number of modules; `is_best`: no other point is both as accurate and as fast, and better in one of them."""

    count: int
    dropped: tuple[str, ...]
    top1: Interval
    change_points: float
    half_width_points: float
    latency_ms: Interval
    ratio: Interval
    top1_bare: float
    is_best: bool = False


class SweepFigure(Figure):
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


class _Judged(Figure):
    accuracy: Accuracy
    change_points: float
    half_width_points: float


class _Row(Figure):
    count: int
    dropped: tuple[str, ...]
    bare: _Judged
    recovered: _Judged | None = None
    latency_ms: Interval
    ratio: Interval


class _File(Figure):
    recover: tuple[str, ...]
    runtime: str
    machine: str
    batch: int
    threads: int
    rows: tuple[_Row, ...]


def sweep_in(folder: RunFolder) -> tuple[SweepFigure | None, tuple[str, ...]]:
    """The last sweep of the run, and what could not be read."""
    stage = folder.newest("sweep")
    if stage is None:
        return None, ()
    file = _file_of(stage)
    points = [_point(row) for row in file.rows] if file else []
    if file is None or None in points or not points:
        return None, (f"{stage.name}: its {_FILE} cannot be read; make it again: edgeres prune --sweep 1..6",)
    return _figure(stage, file, [point for point in points if point]), ()


def _file_of(stage: FinishedStage) -> _File | None:
    """sweep.json, or what the report repeats of it."""
    try:
        return record_from_json(_File, stage.path / _FILE)
    except InputError:
        return _from_report(stage.report.results)


def _from_report(results: dict[str, Any]) -> _File | None:
    """What the stage's report repeats; runtime and machine stand in the file alone."""
    unknown = {"recover": (), "runtime": "runtime unknown", "machine": "machine unknown", "batch": 1, "threads": 0}
    return figure_from(_File, {**unknown, "rows": results.get("rows")})


def best_of(points: Sequence[SweepPoint]) -> list[SweepPoint]:
    """The Pareto front, fastest first: points that no other one beats in accuracy without being slower.

    It is made of the measured values themselves; points whose intervals overlap may change places.
    """
    front: list[SweepPoint] = []
    for point in sorted(points, key=lambda one: (one.latency_ms.value, -one.top1.value)):
        if not front or point.top1.value > front[-1].top1.value:
            front.append(point)
    return front


def _figure(stage: FinishedStage, file: _File, points: list[SweepPoint]) -> SweepFigure:
    best = {point.count for point in best_of(points)}
    judged = (file.rows[0].recovered or file.rows[0].bare).accuracy
    return SweepFigure(
        stage=stage.name,
        n=judged.n,
        dataset=f"{judged.dataset} {judged.split}",
        points=tuple(point.model_copy(update={"is_best": point.count in best}) for point in points),
        **file.model_dump(include={"recover", "runtime", "machine", "batch", "threads"}),
    )


def _point(row: _Row) -> SweepPoint | None:
    final = row.recovered or row.bare
    if not (is_possible(final.accuracy) and is_possible(row.bare.accuracy)):
        return None
    low, high = final.accuracy.interval
    return SweepPoint(
        count=row.count,
        dropped=row.dropped,
        top1=Interval(value=final.accuracy.top1, low=low, high=high),
        top1_bare=row.bare.accuracy.top1,
        **final.model_dump(include={"change_points", "half_width_points"}),
        **row.model_dump(include={"latency_ms", "ratio"}),
    )
