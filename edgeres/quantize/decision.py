"""What quantization decided about a graph, whoever decided it: calibrators, learned rounding or training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


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
    """

    amax: Mapping[str, float]
    weights: Mapping[str, IntegerWeight] = field(default_factory=dict)
    tensors: Mapping[str, NDArray[Any]] = field(default_factory=dict)
