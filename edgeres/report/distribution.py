"""How the calls of one network are spread: a histogram small enough for a report.

Bins are equal between the fastest call and the 99th percentile plus a little, or equal in their ratio where that
percentile lies far above the median; slower calls are counted in `above`.
"""

from __future__ import annotations

import numpy as np

from edgeres.core.metrics import Latency
from edgeres.report.folder import Figure

_BINS = 48
_ROOM = 1.02  # the last edge lies a little above the 99th percentile, so that its line is seen
_LONG_TAIL = 3.0  # p99 over the fastest call from which bins are logarithmic
_LEAST_WIDTH = 1e-6  # relative; calls that all took the same time still have bins


class Distribution(Figure):
    """Calls by duration: `counts` between `edges_ms` (one more than counts), `above` beyond the last edge."""

    edges_ms: tuple[float, ...]
    counts: tuple[int, ...]
    above: int
    is_log: bool
    slowest_ms: float


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
