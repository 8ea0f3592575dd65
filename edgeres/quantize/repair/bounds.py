"""What is known about a tensor's values: its own range, or that of a tensor it cannot exceed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeres.graph.draft import Draft
from edgeres.graph.view import attribute
from edgeres.quantize.placement import COMMUTING, MOVERS, RESHAPERS

_POOLS = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean"})
SHRINKING = frozenset({"Relu"}) | MOVERS | RESHAPERS | _POOLS
_NONNEGATIVE = frozenset({"Relu", "Sigmoid", "Softmax", "HardSigmoid", "Abs"})


@dataclass(frozen=True)
class Bound:
    """Range `low` to `high`, float type of the scale it came from."""

    low: float
    high: float
    dtype: np.dtype[Any]

    @property
    def amax(self) -> float:
        """The symmetric bound that covers the range."""
        return max(abs(self.low), abs(self.high))

    def joined(self, other: Bound | None) -> Bound:
        """The range that covers both."""
        return self if other is None else Bound(min(self.low, other.low), max(self.high, other.high), self.dtype)


def bound_of(draft: Draft, bounds: Mapping[str, Bound], tensor: str) -> Bound | None:
    """The tensor's own range, or one that follows from a neighbour's; None if nothing is known."""
    producers = draft.producers
    found, name, through_relu = bounds.get(tensor), tensor, False
    while found is None and (node := producers.get(name)) is not None and node.op_type in SHRINKING:
        through_relu |= node.op_type == "Relu"
        name = node.input[0]
        found = bounds.get(name)
    if found is not None:
        return Bound(0.0, found.high, found.dtype) if through_relu and found.high > 0 else found
    return _bound_ahead(draft, bounds, tensor)


def is_nonnegative(draft: Draft, tensor: str) -> bool:
    """Whether the tensor cannot be negative, as far as the graph shows."""
    node = draft.producers.get(tensor)
    if node is None:
        return False
    if node.op_type == "Clip":
        low = draft.value(node.input[1]) if len(node.input) > 1 and node.input[1] else None
        return low is not None and bool((low >= 0).all())
    if node.op_type == "Add":
        return all(is_nonnegative(draft, name) for name in node.input)
    return node.op_type in _NONNEGATIVE or (node.op_type in SHRINKING and is_nonnegative(draft, node.input[0]))


def _bound_ahead(draft: Draft, bounds: Mapping[str, Bound], tensor: str) -> Bound | None:
    """The range behind a maximum pooling or a reshaping of `tensor`, which reaches the tensor's own maximum."""
    for reader, index in draft.readers[tensor]:
        if index or reader.op_type not in COMMUTING or (reader.op_type == "MaxPool" and not _covers(draft, reader)):
            continue
        found = bounds.get(reader.output[0]) or _bound_ahead(draft, bounds, reader.output[0])
        if found is not None:
            return found
    return None


def _covers(draft: Draft, pool: Any) -> bool:
    """Whether a pooling of a non-negative tensor leaves no pixel out: its strides are not above its kernel."""
    sizes = {entry.name: list(entry.ints) for entry in pool.attribute}
    kernel = sizes.get("kernel_shape", [])
    strides = sizes.get("strides") or [1] * len(kernel)
    dilated = any(step != 1 for step in sizes.get("dilations") or [])
    ceil = attribute(pool, "ceil_mode", 0)
    return not (dilated or ceil) and all(map(int.__le__, strides, kernel)) and is_nonnegative(draft, pool.input[0])
