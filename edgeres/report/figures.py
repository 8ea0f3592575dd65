"""Figures that several parts of a report share: accuracy, latency and what changed between two of them."""

from __future__ import annotations

import numpy as np

from edgeres.core.config import Record, unless_usual
from edgeres.core.metrics import Accuracy, Interval, Latency
from edgeres.core.statistics import P99_CALLS, percentile_interval, spread_ms
from edgeres.report.folder import Figure

_P99 = 99
_BINS = 48
_ROOM = 1.02  # the last edge lies a little above the 99th percentile, so that its line is seen
_LONG_TAIL = 3.0  # p99 over the fastest call from which bins are logarithmic
_LEAST_WIDTH = 1e-6  # relative; calls that all took the same time still have bins


class AccuracyFigure(Record):
    """Top-1 as a fraction with its 95 % Wilson interval."""

    top1: Interval
    top5: float
    n: int
    dataset: str
    split: str
    runtime: str


class Percentile(Record):
    """A figure, mostly a percentile in milliseconds; without an interval where its calls are too few for one."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def is_known(self) -> bool:
        """Whether its calls are enough; a percentile of too few is not shown."""
        return self.low is not None


class Distribution(Figure):
    """Calls by duration: `counts` between `edges_ms` (one more than counts), `above` beyond the last edge.

    Bins are equal between the fastest call and the 99th percentile plus a little, or equal in their ratio where that
    percentile lies far above the median.
    """

    edges_ms: tuple[float, ...]
    counts: tuple[int, ...]
    above: int
    is_log: bool
    slowest_ms: float


class LatencyFigure(Record):
    """Median and 99th percentile of one call; `verdict` is what the session says against itself, if it does."""

    p50_ms: Interval
    p99_ms: Percentile
    spread_ms: float
    samples: int
    batch: int
    threads: int
    runtime: str
    machine: str
    session: str
    note: str = ""
    verdict: str = ""
    distribution: Distribution | None = None

    @property
    def conditions(self) -> str:
        """`onnxruntime 1.20.0 cpu, batch 1, threads 2, AMD EPYC`; a board has no threads."""
        threads = f"threads {self.threads}, " if self.threads else ""
        return f"{self.runtime}, batch {self.batch}, {threads}{self.machine}"


class Change(Percentile):
    """A difference or ratio against the row `versus`; without an interval where none can be given.

    `apart` is where another machine judged that: `judged on desk`.
    """

    versus: str
    apart: str = ""

    _written = unless_usual("apart")


class Changes(Record):
    """Points of top-1 (percentage points), latency and file size as ratios to the earlier row's."""

    points: Change | None = None
    latency_ratio: Change | None = None
    size_ratio: Change | None = None


def accuracy_figure(accuracy: Accuracy | None) -> AccuracyFigure | None:
    """The rates of a count, None for none."""
    if accuracy is None:
        return None
    return AccuracyFigure(
        top1=accuracy.interval,
        top5=accuracy.top5,
        **accuracy.model_dump(include={"n", "dataset", "split", "runtime"}),
    )


def latency_figure(latency: Latency | None) -> LatencyFigure | None:
    """The percentiles and the histogram of raw samples, None for none."""
    if latency is None:
        return None
    shared = {"batch", "threads", "runtime", "machine", "session", "note"}
    return LatencyFigure(
        p50_ms=percentile_interval(latency, 50),
        p99_ms=_p99(latency),
        spread_ms=spread_ms(latency),
        samples=len(latency.samples_ms),
        distribution=distribution_of(latency),
        **latency.model_dump(include=shared),
    )


def _p99(latency: Latency) -> Percentile:
    if len(latency.samples_ms) < P99_CALLS:
        return Percentile(value=latency.p99_ms)
    return Percentile(**percentile_interval(latency, _P99).model_dump())


def distribution_of(latency: Latency) -> Distribution:
    """The histogram of the latency's samples; every sample is in `counts` or in `above`."""
    samples = np.asarray(latency.samples_ms)
    low, high = float(samples.min()), _ROOM * latency.p99_ms
    high = max(high, low * (1 + _LEAST_WIDTH))
    is_log = high / low > _LONG_TAIL
    edges = np.geomspace(low, high, _BINS + 1) if is_log else np.linspace(low, high, _BINS + 1)
    edges[0], edges[-1] = low, high  # rounding must not lose the fastest call
    counts, _ = np.histogram(samples, bins=edges)
    return Distribution(
        edges_ms=tuple(round(float(edge), 7) for edge in edges),
        counts=tuple(int(count) for count in counts),
        above=len(samples) - int(counts.sum()),
        is_log=is_log,
        slowest_ms=float(samples.max()),
    )
