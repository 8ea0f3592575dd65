"""Figures that several parts of a report share: accuracy, latency and what changed between two of them."""

from __future__ import annotations

from edgeres.core.config import Record
from edgeres.core.metrics import Accuracy, Latency
from edgeres.core.statistics import P99_CALLS, Interval, percentile_interval, spread_ms
from edgeres.report.distribution import Distribution, distribution_of

_P99 = 99


class AccuracyFigure(Record):
    """Top-1 as a fraction with its 95 % Wilson interval."""

    top1: Interval
    top5: float
    n: int
    dataset: str
    split: str
    runtime: str


class Percentile(Record):
    """A percentile in milliseconds; without an interval where its calls are too few for one."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def is_known(self) -> bool:
        """Whether its calls are enough; where they are not it is not shown."""
        return self.low is not None


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


class Change(Record):
    """A difference or ratio against the row `versus`; without an interval where none can be given."""

    value: float
    low: float | None = None
    high: float | None = None
    versus: str


class Changes(Record):
    """Points of top-1 (percentage points), latency and file size as ratios to the earlier row's."""

    points: Change | None = None
    latency_ratio: Change | None = None
    size_ratio: Change | None = None


def accuracy_figure(accuracy: Accuracy | None) -> AccuracyFigure | None:
    """The rates of a count, None for none."""
    if accuracy is None:
        return None
    low, high = accuracy.interval
    return AccuracyFigure(
        top1=Interval(value=accuracy.top1, low=low, high=high),
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
