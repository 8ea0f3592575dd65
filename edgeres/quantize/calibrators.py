"""Calibrators: where to clip a tensor, decided from a streaming histogram of its |x| alone, in bounded memory.

    amax = calibrator(histogram),   scale = amax / 127,   0 <= amax <= largest |x|

A new one is a function and a line in CALIBRATORS. All are deterministic, and scaling a tensor by a power of two
scales its bound: they count in bins, so what depends on the grid only is computed once.
`calibration/README.md` shows what each reaches.

`BINS` equal bins cover [0, 2^exponent), the smallest power of two above the largest |x| seen. A wider value
doubles the range by adding neighbouring bins in pairs. Bin edges are therefore dyadic and binning is exact
in floating point: the histogram depends on the values only, not on their order or on how they were cut into
batches.

Exact zeros are counted apart: they are representable at any scale, so they say nothing about where to clip.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeres.core.errors import InputError
from edgeres.core.metrics import decibels
from edgeres.core.names import lookup

BINS = 2048  # as TensorRT's entropy calibrator
_PIECE = 1 << 15  # values binned at a time: 0.4 MB of work space
_MIN_EXPONENT = -100  # keeps BINS / 2^exponent inside float32
Floats = NDArray[np.float64]

LEVELS = 127  # positive steps of symmetric int8
_ENTROPY_LEVELS = 128  # Migacz 2017: quantize to 128 levels, candidates start there
_STRIDE = 8  # bins between candidate thresholds: at most 1/128 of the largest |x|
_PERCENTILE = 0.9999
SHOWN = 6  # of the tensors INT8 suits least, in a report
_BARS = 64  # bins of a histogram that is drawn
_DECIMALS = 2
_TIE = 12  # decimals of a divergence that mean something after sums over 2048 bins


@dataclass
class Histogram:
    """Counts of |x| of the tensor `name`; `minimum` and `maximum` are of x itself."""

    name: str
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    exponent: int = _MIN_EXPONENT
    zeros: int = 0
    minimum: float = math.inf
    maximum: float = -math.inf

    @property
    def n(self) -> int:
        """Values seen."""
        return int(self.counts.sum()) + self.zeros

    @property
    def absmax(self) -> float:
        """Largest |x|, exact; 0 before anything was seen."""
        return max(self.maximum, -self.minimum, 0.0)

    @property
    def width(self) -> float:
        """Width of a bin."""
        return math.ldexp(1.0, self.exponent) / BINS

    @property
    def used(self) -> int:
        """Bins up to and with the one that holds `absmax`."""
        return min(int(self.absmax / self.width) + 1, BINS)

    def add(self, values: NDArray[Any]) -> None:
        """Counts `values` (any shape, floating point); raises InputError if one is NaN or infinite."""
        if values.size == 0:
            return
        flat = values.ravel()
        low, high = float(flat.min()), float(flat.max())
        largest = max(high, -low)
        if not math.isfinite(largest):
            kind = "NaN" if math.isnan(largest) else "infinite"
            raise InputError(f"tensor {self.name!r} has {kind} values; the model or its images are damaged")
        if largest and (exponent := math.frexp(largest)[1]) > self.exponent:
            self.counts = _coarsened(self.counts, exponent - self.exponent)
            self.exponent = exponent
        self._count(flat, may_be_zero=low <= 0 <= high)
        self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)

    def take(self, other: Histogram) -> None:
        """Counts what `other` has counted."""
        exponent = max(self.exponent, other.exponent)
        mine, theirs = (_coarsened(one.counts, exponent - one.exponent) for one in (self, other))
        self.counts = mine + theirs
        self.exponent, self.zeros = exponent, self.zeros + other.zeros
        self.minimum, self.maximum = min(self.minimum, other.minimum), max(self.maximum, other.maximum)

    def _count(self, flat: NDArray[Any], *, may_be_zero: bool) -> None:
        """In pieces that stay in the processor's cache."""
        factor = BINS * math.ldexp(1.0, -self.exponent)
        magnitude, bins = np.empty(_PIECE, flat.dtype), np.empty(_PIECE, np.intp)
        for start in range(0, flat.size, _PIECE):
            piece = flat[start : start + _PIECE]
            out, places = magnitude[: piece.size], bins[: piece.size]
            np.multiply(np.abs(piece, out=out), factor, out=out)
            np.copyto(places, out, casting="unsafe")
            self.counts += np.bincount(places, minlength=BINS)
        if may_be_zero:
            zeros = flat.size - int(np.count_nonzero(flat))
            self.counts[0] -= zeros
            self.zeros += zeros


def _coarsened(counts: NDArray[np.int64], doublings: int) -> NDArray[np.int64]:
    """The same counts on a range 2^doublings times as wide."""
    group = min(1 << min(doublings, BINS), BINS)
    wide = np.zeros_like(counts)
    wide[: BINS // group] = counts.reshape(-1, group).sum(1)
    return wide


Calibrator = Callable[[Histogram], float]


def minmax(histogram: Histogram) -> float:
    """The largest |x|: nothing is clipped."""
    return histogram.absmax


def percentile(histogram: Histogram) -> float:
    """The smallest bin edge that covers 99.99 % of all values, zeros included."""
    covered = histogram.zeros + np.cumsum(histogram.counts)
    return float(np.searchsorted(covered, _PERCENTILE * histogram.n) + 1) * histogram.width


def mse(histogram: Histogram) -> float:
    """The clipping bound with the smallest mean squared error of rounding and clipping together."""
    counts = histogram.counts[: histogram.used].astype(np.float64)
    bounds = _candidates(histogram.used)
    regular = _squared_errors()[: len(bounds) - 1, : len(counts)] @ counts
    last = _squared_error(bounds[-1:], len(counts)) @ counts
    return float(bounds[np.argmin(np.append(regular, last))]) * histogram.width


def sqnr(histogram: Histogram) -> float:
    """The clipping bound with the best ratio of signal to noise under the analytic noise model.

    Inside the bound every value but an exact zero carries uniform rounding noise, scale^2 / 12; outside, the whole
    distance to the bound. Unlike `mse` it tries every bin edge and knows nothing of where values lie within a step:
    values below half a step, which are rounded to zero, count as if their noise were uniform.
    Source: Widrow & Kollar 2008, "Quantization Noise", section 1 (uniform noise model).
    """
    counts = histogram.counts[: histogram.used].astype(np.float64)
    centres, bounds = np.arange(len(counts)) + 0.5, np.arange(1.0, len(counts) + 1)
    outside, first, second = (
        power.sum() - np.cumsum(power) for power in (counts, counts * centres, counts * centres**2)
    )
    rounding = (bounds / LEVELS) ** 2 / 12 * np.cumsum(counts)
    noise = rounding + second - 2 * bounds * first + bounds**2 * outside
    return float(bounds[np.argmin(noise)]) * histogram.width


def entropy(histogram: Histogram) -> float:
    """The clipping bound that loses the least information, as TensorRT's entropy calibrator chooses it.

    For a bound at bin i, P is the histogram with everything beyond i put into bin i - 1, and Q is the
    histogram up to i merged into 128 levels and spread again over its non-empty bins; the bound minimises
    KL(P || Q).
    Source: Migacz 2017, "8-bit Inference with TensorRT", GTC.
    """
    candidates = _candidates(histogram.used)
    if len(candidates) == 1:
        return float(candidates[0]) * histogram.width
    divergences = np.round(_divergences(histogram.counts[: histogram.used].astype(np.float64), candidates), _TIE)
    last = len(candidates) - 1 - int(np.argmin(divergences[::-1]))
    return float(candidates[last]) * histogram.width


CALIBRATORS: dict[str, Calibrator] = {
    "minmax": minmax,
    "entropy": entropy,
    "percentile": percentile,
    "mse": mse,
    "sqnr": sqnr,
}


def amax_from(histogram: Histogram, method: str) -> float:
    """The clipping bound by `method`, never beyond the largest |x|; 0 for a tensor that was always zero."""
    calibrator = lookup(CALIBRATORS, method, "calibrator")
    return min(calibrator(histogram), histogram.absmax) if histogram.absmax > 0 else 0.0


def hardest(histograms: Mapping[str, Histogram], amax: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """The tensors INT8 suits least: up to `SHOWN` rows {tensor, top, counts, zeros, n, amax, sqnr_db}, the worst first.

    amax: tensor -> calibrator -> bound. A tensor is judged by the calibrator that suits it best; `counts` are of |x|
    in equal bins from 0 to `top`, the largest |x|.
    """
    rows = [_row(histogram, amax[name]) for name, histogram in histograms.items() if histogram.absmax > 0]
    best_db = {row["tensor"]: [db for db in row["sqnr_db"].values() if db is not None] for row in rows}
    return sorted(rows, key=lambda row: max(best_db[row["tensor"]], default=math.inf))[:SHOWN]


def sqnr_db(histogram: Histogram, bound: float) -> float | None:
    """Signal over the noise of rounding and clipping at `bound`, in dB; None without noise or bound.

    Of the non-zero values, at the centres of the histogram's bins.
    """
    counts = histogram.counts[: histogram.used].astype(np.float64)
    centres = (np.arange(len(counts)) + 0.5) * histogram.width
    if bound <= 0:
        return None
    scale = bound / LEVELS
    noise = float(counts @ (np.minimum(np.rint(centres / scale), LEVELS) * scale - centres) ** 2)
    return round(decibels(float(counts @ centres**2), noise), _DECIMALS) if noise > 0 else None


def _candidates(used: int) -> NDArray[np.int64]:
    """Numbers of bins to keep; the last keeps all, so that not clipping is always a choice."""
    return np.append(np.arange(_ENTROPY_LEVELS, used, _STRIDE), used)


@lru_cache(maxsize=1)
def _squared_errors() -> Floats:
    """(candidates, BINS): squared error of a value at each bin's centre under each bound, in bins."""
    return _squared_error(_candidates(BINS)[:-1], BINS)


def _squared_error(bounds: NDArray[np.int64], bins: int) -> Floats:
    centres, scales = np.arange(bins) + 0.5, bounds[:, None] / LEVELS
    error: Floats = (np.minimum(np.rint(centres / scales), LEVELS) * scales - centres) ** 2
    return error


def _divergences(counts: Floats, kept: NDArray[np.int64]) -> Floats:
    """KL(P || Q) for bounds after `kept` bins (all >= 128); infinite where Q denies a value that P has.

    With c the counts, T their sum and K that of the kept bins, s and f the sum and the number of non-empty bins of a
    level and r what is clipped, T KL is the sum of P log P less that of s log(s / f) and r log(s / f of the last
    level), plus T log(K / T).
    """
    edges = -(-np.arange(_ENTROPY_LEVELS + 1) * kept[:, None] // _ENTROPY_LEVELS)
    sums, filled = (np.diff(_sums_before(part)[edges], axis=1) for part in (counts, counts > 0))
    total, inside, last = counts.sum(), _sums_before(counts)[kept], counts[kept - 1]
    clipped = total - inside
    information = _sums_before(_x_log_x(counts))[kept - 1] + _x_log_x(last + clipped)
    level = np.log(np.where(sums > 0, sums, 1) / np.maximum(filled, 1))
    kept_information = (sums * level).sum(1) + clipped * level[:, -1]
    with np.errstate(divide="ignore"):
        divergence: Floats = (information - kept_information) / total + np.log(inside / total)
    return np.where((inside == 0) | ((last == 0) & (clipped > 0)), np.inf, divergence)


def _sums_before(values: NDArray[np.generic]) -> Floats:
    """Sum of everything before each place, and of everything."""
    return np.append(0.0, np.cumsum(values, dtype=np.float64))


def _x_log_x(x: Floats) -> Floats:
    return np.asarray(x * np.log(np.where(x > 0, x, 1)))


def _row(histogram: Histogram, amax: Mapping[str, float]) -> dict[str, Any]:
    """The counts in `_BARS` equal bins from 0 to the largest |x|, a fine bin in the one that holds its centre."""
    places = (np.arange(BINS) + 0.5) * histogram.width / histogram.absmax * _BARS
    coarse = np.bincount(np.minimum(places.astype(np.int64), _BARS - 1), histogram.counts, minlength=_BARS)
    return {
        "tensor": histogram.name,
        "top": histogram.absmax,
        "counts": [int(count) for count in coarse],
        "zeros": histogram.zeros,
        "n": histogram.n,
        "amax": dict(amax),
        "sqnr_db": {method: sqnr_db(histogram, bound) for method, bound in amax.items()},
    }
