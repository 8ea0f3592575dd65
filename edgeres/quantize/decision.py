"""What quantization decided about a graph, whoever decided it: calibrators, what was learned or training.

A weight is rounded per output channel:   q = clip(round(w / s), -n, n),   s = amax of the row / n,   n = 127 or fewer
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeres.quantize.calibrators import LEVELS


@dataclass(frozen=True)
class IntegerWeight:
    """A weight as stored: int8 `values` of the weight's shape, float32 `scale` of each row (output channel)."""

    values: NDArray[np.int8]
    scale: NDArray[np.float32]

    @property
    def as_float(self) -> NDArray[np.float32]:
        """Values * scale, float32 of the weight's shape."""
        rows = self.scale.reshape(-1, *[1] * (self.values.ndim - 1))
        product: NDArray[np.float32] = self.values.astype(np.float32) * rows
        return product


@dataclass(frozen=True)
class Decision:
    """Everything `with_pairs` needs beside the placement.

    `amax`: clipping bound of each observed tensor, > 0. `weights`: integers of initializers that are not simply rounded
    to nearest. `tensors`: float initializers to put in the place of the graph's before anything is quantized.
    `extremes`: smallest and largest value of each tensor, which only the profile `ort-cpu` reads.
    """

    amax: Mapping[str, float]
    weights: Mapping[str, IntegerWeight] = field(default_factory=dict)
    tensors: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    extremes: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def quantized_weight(weight: NDArray[Any], levels: int = LEVELS) -> IntegerWeight:
    """`weight` (rows first) rounded to nearest in [-levels, levels], each row at its `row_scale`."""
    return rounded_at(row_scale(weight, levels), weight, levels)


def row_scale(weight: NDArray[Any], levels: int = LEVELS) -> NDArray[np.float32]:
    """The largest |w| of each row over `levels`.

    A row of zeros gets the largest row's: any scale would do, this one needs no range of its own.
    """
    smallest = float(np.finfo(np.float32).tiny) * levels  # below it the scale is no normal float32
    rows = np.abs(weight.reshape(len(weight), -1)).max(1).astype(np.float64)
    filled: NDArray[np.float64] = np.where(rows > smallest, rows, max(rows.max(), smallest))
    return (filled / levels).astype(np.float32)


def rounded_at(scale: NDArray[np.float32], weight: NDArray[Any], levels: int = LEVELS) -> IntegerWeight:
    """`weight` to nearest in steps of its row's `scale`, in [-levels, levels]; of float64, divided in float64."""
    steps = weight / scale.reshape(-1, *[1] * (weight.ndim - 1))
    return IntegerWeight(np.clip(np.rint(steps), -levels, levels).astype(np.int8), scale)
