"""Takes every pair out of a graph and remembers what it said: a tensor's own range, or that of one it cannot exceed.

Batch norm is folded into quantized convolutions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeres.graph.draft import Draft, inlined
from edgeres.graph.normal import fold_batch_norms
from edgeres.graph.opset import at_opset
from edgeres.graph.view import DQ, GraphView, Q, attribute
from edgeres.quantize.decision import IntegerWeight
from edgeres.quantize.lint.pairs import integer_type
from edgeres.quantize.placement import COMMUTING, MOVERS, RESHAPERS, Read

_POOLS = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean"})
SHRINKING = frozenset({"Relu"}) | MOVERS | RESHAPERS | _POOLS
_NONNEGATIVE = frozenset({"Relu", "Sigmoid", "Softmax", "HardSigmoid", "Abs"})
_PLAIN = {np.dtype(kind) for kind in (np.int8, np.uint8, np.int16, np.uint16, np.int32)}


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


@dataclass
class Taken:
    """What the pairs said.

    `bounds`: range of every quantized tensor. `reads`: inputs of nodes that were quantized. `weights`: float constants
    that were integers, with their integers where those are symmetric int8 per row or per tensor. `renamed`: tensors
    that took the name of an output which their pair had made -> that name.
    """

    bounds: dict[str, Bound] = field(default_factory=dict)
    reads: set[Read] = field(default_factory=set)
    weights: dict[str, IntegerWeight | None] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)

    def has(self, layer: onnx.NodeProto) -> bool:
        """Whether an input of `layer` was quantized, or its weights were."""
        return {(layer.name, 0), (layer.name, 1)} & self.reads != set() or layer.input[1] in self.weights


def floated(model: onnx.ModelProto) -> tuple[Draft, Taken]:
    """`model` as a float graph, as far as its pairs can be understood, and what they said."""
    draft, taken = drafted(model), Taken()
    for node in list(draft.nodes):
        if node.op_type == Q and node.input[0] in draft.constants:
            _quantize_constant(draft, node)
    for node in list(draft.nodes):
        if node.op_type == DQ and node.input[0] in draft.constants:
            _strip_weight(draft, node, taken)
    for node in list(draft.nodes):
        if node.op_type == Q:
            _strip_pair(draft, node, taken)
    for layer, weight, factor in fold_batch_norms(draft, taken.has):
        taken.weights[layer.input[1]] = _scaled(taken.weights.get(weight), factor)
    return draft, taken


def drafted(model: onnx.ModelProto) -> Draft:
    """`model` with its functions written out, at an opset that has scales per channel; InputError where that fails."""
    return Draft(at_opset(inlined(model)))


def parameters_of(graph: GraphView | Draft, node: onnx.NodeProto) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """(scale, zero point) of a Q or DQ of 8, 16 or 32 bit integers; None if computed, invalid or of another type."""
    scale, name = graph.value(node.input[1]), node.input[2] if len(node.input) > 2 else ""
    if scale is None or attribute(node, "block_size", 0) or (name and name not in graph.constants):
        return None
    zero = graph.value(name)
    if zero is None:
        zero = np.zeros((), onnx.helper.tensor_dtype_to_np_dtype(integer_type(graph, node)))
    wide = np.asarray(scale, np.float64)
    return (scale, zero) if zero.dtype in _PLAIN and np.isfinite(wide).all() and (wide > 0).all() else None


def span_of(scale: NDArray[Any], zero: NDArray[Any]) -> tuple[float, float]:
    """[(qmin - z) s, (qmax - z) s], the widest channel's."""
    limits = np.iinfo(zero.dtype)
    low, high = ((end - zero.astype(np.float64)) * scale.astype(np.float64) for end in (limits.min, limits.max))
    return float(low.min()), float(high.max())


def _quantize_constant(draft: Draft, node: onnx.NodeProto) -> None:
    """Runs the Q of a float weight, so that only a DequantizeLinear of stored integers is left."""
    weight = draft.value(node.input[0])
    if weight is None or (parameters := _fitting(draft, node, weight)) is None:
        return
    scale, zero = parameters
    limits = np.iinfo(zero.dtype)
    steps = np.rint(weight / _along(scale, node, weight.ndim)) + _along(zero, node, weight.ndim).astype(np.float64)
    draft.store(node.output[0], np.clip(steps, limits.min, limits.max).astype(zero.dtype))
    draft.remove([node])


def _strip_weight(draft: Draft, node: onnx.NodeProto, taken: Taken) -> None:
    """A DequantizeLinear of stored integers becomes its float result, exactly as ONNX defines it."""
    values = draft.value(node.input[0])
    if values is None or values.dtype not in _PLAIN or node.output[0] in draft.outputs:
        return
    if (parameters := _fitting(draft, node, values)) is None:
        return
    scale, zero = parameters
    shifted = values.astype(np.int64) - _along(zero, node, values.ndim).astype(np.int64)
    draft.store(node.output[0], (shifted * _along(scale, node, values.ndim)).astype(scale.dtype))
    if values.dtype != np.int32:
        taken.weights[node.output[0]] = _kept_integers(values, scale, zero, axis=_axis(node, values.ndim))
    draft.remove([node])


def _fitting(draft: Draft, node: onnx.NodeProto, values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """`parameters_of` where there is one, or one for each index of the axis; anything else is no valid node."""
    parameters = parameters_of(draft, node)
    sizes = {part.size for part in parameters or ()} - {1}
    is_valid = not sizes or (values.ndim > 0 and sizes == {values.shape[_axis(node, values.ndim)]})
    return parameters if is_valid else None


def _kept_integers(values: NDArray[Any], scale: NDArray[Any], zero: NDArray[Any], *, axis: int) -> IntegerWeight | None:
    """The integers themselves where they already are what TensorRT wants, along axis 0."""
    if values.dtype != np.int8 or zero.any() or values.ndim < 2 or (scale.size > 1 and axis != 0):
        return None
    rows = np.ascontiguousarray(np.broadcast_to(scale.astype(np.float32).reshape(-1), (len(values),)))
    return IntegerWeight(values, rows)


def _strip_pair(draft: Draft, node: onnx.NodeProto, taken: Taken) -> None:
    """A pair on a computed tensor: its readers read the tensor, its range is kept."""
    ends = [reader for reader, _ in draft.readers[node.output[0]]]
    parameters = parameters_of(draft, node)
    if parameters is None or node.output[0] in draft.outputs or any(end.op_type != DQ for end in ends):
        return
    if len({part.size for part in parameters} - {1}) > 1:
        return
    (scale, zero), (low, high), source = parameters, span_of(*parameters), node.input[0]
    if zero.dtype == np.int8 and not zero.any():
        low = -high  # -128 is never needed: scale = amax / 127
    bound = Bound(low, high, scale.dtype)
    if low == 0 and not is_nonnegative(draft, source):
        source = _add_relu(draft, node)
    taken.bounds[source] = bound.joined(taken.bounds.get(source))
    for end in ends:
        taken.reads |= {(reader.name, index) for reader, index in draft.readers[end.output[0]]}
        draft.remove([end])
        name = draft.replace_tensor(end.output[0], source)
        taken.bounds[name] = taken.bounds.pop(source)
        if name != source:
            taken.renamed[source] = name
        source = name
    draft.remove([node])


def _add_relu(draft: Draft, node: onnx.NodeProto) -> str:
    """A ReLU behind the tensor a pair cut off at zero; the next such pair of that tensor shares it."""
    source = node.input[0]
    for reader, _ in draft.readers[source]:
        if reader.op_type == "Relu":
            return str(reader.output[0])
    output = draft.free(f"{source}.relu")
    draft.insert_after(source, "Relu", [source], output)
    return output


def _axis(node: onnx.NodeProto, ndim: int) -> int:
    return attribute(node, "axis", 1) % max(ndim, 1)


def _along(values: NDArray[Any], node: onnx.NodeProto, ndim: int) -> NDArray[Any]:
    """Parameters shaped so that they multiply the tensor."""
    if values.size == 1:
        return values.reshape(())
    shape = [1] * ndim
    shape[_axis(node, ndim)] = values.size
    return values.reshape(shape)


def _scaled(weight: IntegerWeight | None, factor: NDArray[Any]) -> IntegerWeight | None:
    """The integers, with the `factor` of a batch norm in the scales of their rows.

    None where a row's factor is zero or -128 would change its sign.
    """
    if weight is None or not factor.all() or (weight.values == np.iinfo(np.int8).min).any():
        return None
    signs = np.sign(factor).astype(np.int8).reshape(-1, *[1] * (weight.values.ndim - 1))
    return IntegerWeight(weight.values * signs, (weight.scale * np.abs(factor)).astype(np.float32))


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
