"""The tensors INT8 suits least: their histograms, small enough for a report, and what each bound makes of them.

sqnr = sum(x^2) / sum((x - q(x))^2)   over the non-zero values, at the centres of the histogram's 2048 bins
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgeres.quantize.calibrators import LEVELS
from edgeres.quantize.histogram import BINS, Histogram

SHOWN = 6  # tensors in a report
_BARS = 64  # bins of a histogram that is drawn
_DECIMALS = 2


def hardest(histograms: Mapping[str, Histogram], amax: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """Up to `SHOWN` rows {tensor, top, counts, zeros, n, amax, sqnr_db}, the worst tensor first.

    amax: tensor -> calibrator -> bound. A tensor is judged by the calibrator that suits it best; `counts` are of |x|
    in equal bins from 0 to `top`, the largest |x|.
    """
    rows = [_row(histogram, amax[name]) for name, histogram in histograms.items() if histogram.absmax > 0]
    return sorted(rows, key=_best_db)[:SHOWN]


def sqnr_db(histogram: Histogram, bound: float) -> float | None:
    """Signal over the noise of rounding and clipping at `bound`, in dB; None without noise or bound."""
    counts = histogram.counts[: histogram.used].astype(np.float64)
    centres = (np.arange(len(counts)) + 0.5) * histogram.width
    if bound <= 0:
        return None
    scale = bound / LEVELS
    noise = float(counts @ (np.minimum(np.rint(centres / scale), LEVELS) * scale - centres) ** 2)
    return round(10 * math.log10(float(counts @ centres**2) / noise), _DECIMALS) if noise > 0 else None


def _row(histogram: Histogram, amax: Mapping[str, float]) -> dict[str, Any]:
    return {
        "tensor": histogram.name,
        "top": histogram.absmax,
        "counts": _coarse(histogram),
        "zeros": histogram.zeros,
        "n": histogram.n,
        "amax": dict(amax),
        "sqnr_db": {method: sqnr_db(histogram, bound) for method, bound in amax.items()},
    }


def _coarse(histogram: Histogram) -> list[int]:
    """Counts in `_BARS` equal bins from 0 to the largest |x|, a fine bin in the one that holds its centre."""
    places = (np.arange(BINS) + 0.5) * histogram.width / histogram.absmax * _BARS
    coarse = np.bincount(np.minimum(places.astype(np.int64), _BARS - 1), histogram.counts, minlength=_BARS)
    return [int(count) for count in coarse]


def _best_db(row: dict[str, Any]) -> float:
    return max((value for value in row["sqnr_db"].values() if value is not None), default=math.inf)
