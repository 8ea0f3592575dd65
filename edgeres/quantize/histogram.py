"""Streaming histogram of |x|: bounded memory.

`BINS` equal bins cover [0, 2^exponent), the smallest power of two above the largest |x| seen. A wider value
doubles the range by adding neighbouring bins in pairs. Bin edges are therefore dyadic and binning is exact
in floating point: the histogram depends on the values only, not on their order or on how they were cut into
batches.

Exact zeros are counted apart: they are representable at any scale, so they say nothing about where to clip.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeres.core.errors import InputError

BINS = 2048  # as TensorRT's entropy calibrator
_PIECE = 1 << 15  # values binned at a time: 0.4 MB of work space
_MIN_EXPONENT = -100  # keeps BINS / 2^exponent inside float32


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
