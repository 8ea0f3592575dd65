"""What a sweep found: accuracy and latency for each number of modules."""

from __future__ import annotations

from typing import Literal

from edgeres.core.config import Record
from edgeres.core.metrics import Accuracy
from edgeres.core.statistics import Interval


class Judged(Record):
    """Top-1 on val and its change against the whole network, paired, in points."""

    accuracy: Accuracy
    change_points: float
    half_width_points: float


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
