"""Takes every pair out of a graph and remembers what it said."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeres.graph.draft import Draft
from edgeres.graph.view import DQ, Q, attribute
from edgeres.quantize.decision import IntegerWeight
from edgeres.quantize.repair.bounds import Bound, is_nonnegative

_PLAIN = {np.dtype(kind) for kind in (np.int8, np.uint8, np.int16, np.uint16, np.int32)}
Read = tuple[str, int]  # name of a node, index of its input


@dataclass
class Taken:
    """What the pairs said.

    `bounds`: range of every quantized tensor. `reads`: inputs of nodes that were quantized. `weights`: float constants
    that were integers, with their integers where those are symmetric int8 per row or per tensor.
    """

    bounds: dict[str, Bound] = field(default_factory=dict)
    reads: set[Read] = field(default_factory=set)
    weights: dict[str, IntegerWeight | None] = field(default_factory=dict)

    def has(self, layer: onnx.NodeProto) -> bool:
        """Whether an input of `layer` was quantized, or its weights were."""
        return {(layer.name, 0), (layer.name, 1)} & self.reads != set() or layer.input[1] in self.weights


def strip(draft: Draft) -> Taken:
    """Makes `draft` a float graph, as far as its pairs can be understood."""
    taken = Taken()
    for node in list(draft.nodes):
        if node.op_type == Q and node.input[0] in draft.constants:
            _quantize_constant(draft, node)
    for node in list(draft.nodes):
        if node.op_type == DQ and node.input[0] in draft.constants:
            _strip_weight(draft, node, taken)
    for node in list(draft.nodes):
        if node.op_type == Q:
            _strip_pair(draft, node, taken)
    return taken


def _parameters(
    draft: Draft, node: onnx.NodeProto, data: np.dtype[Any] | None
) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """(scale, zero point) of a node of 8, 16 or 32 bit integers; None if computed, invalid or of another type."""
    scale = draft.value(node.input[1])
    name = node.input[2] if len(node.input) > 2 else ""
    if scale is None or attribute(node, "block_size", 0) or (name and name not in draft.constants):
        return None
    zero = draft.value(name) if name else np.zeros((), _type_without_zero_point(node) if data is None else data)
    wide = np.asarray(scale, np.float64)
    if zero is None or zero.dtype not in _PLAIN or not (np.isfinite(wide).all() and (wide > 0).all()):
        return None
    return scale, zero


def _type_without_zero_point(node: onnx.NodeProto) -> Any:
    kind = attribute(node, "output_dtype", 0) or onnx.TensorProto.UINT8
    return onnx.helper.tensor_dtype_to_np_dtype(kind)


def _quantize_constant(draft: Draft, node: onnx.NodeProto) -> None:
    """Runs the Q of a float weight, so that only a DequantizeLinear of stored integers is left."""
    parameters, weight = _parameters(draft, node, None), draft.value(node.input[0])
    if parameters is None or weight is None or not _fits(weight, node, parameters):
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
    parameters = _parameters(draft, node, values.dtype)
    if parameters is None or not _fits(values, node, parameters):
        return
    scale, zero = parameters
    shifted = values.astype(np.int64) - _along(zero, node, values.ndim).astype(np.int64)
    draft.store(node.output[0], (shifted * _along(scale, node, values.ndim)).astype(scale.dtype))
    if values.dtype != np.int32:
        taken.weights[node.output[0]] = _kept_integers(values, scale, zero, axis=_axis(node, values.ndim))
    draft.remove([node])


def _fits(values: NDArray[Any], node: onnx.NodeProto, parameters: tuple[NDArray[Any], NDArray[Any]]) -> bool:
    """Whether there is one parameter, or one for each index of the axis; anything else is no valid node."""
    sizes = {part.size for part in parameters} - {1}
    return not sizes or (values.ndim > 0 and sizes == {values.shape[_axis(node, values.ndim)]})


def _kept_integers(values: NDArray[Any], scale: NDArray[Any], zero: NDArray[Any], *, axis: int) -> IntegerWeight | None:
    """The integers themselves where they already are what TensorRT wants, along axis 0."""
    if values.dtype != np.int8 or zero.any() or values.ndim < 2 or (scale.size > 1 and axis != 0):
        return None
    rows = np.ascontiguousarray(np.broadcast_to(scale.astype(np.float32).reshape(-1), (len(values),)))
    return IntegerWeight(values, rows)


def _strip_pair(draft: Draft, node: onnx.NodeProto, taken: Taken) -> None:
    """A pair on a computed tensor: its readers read the tensor, its range is kept."""
    ends = [reader for reader, _ in draft.readers[node.output[0]]]
    parameters = _parameters(draft, node, None)
    if parameters is None or node.output[0] in draft.outputs or any(end.op_type != DQ for end in ends):
        return
    if len({part.size for part in parameters} - {1}) > 1:
        return
    source, bound = node.input[0], _bound(*parameters)
    if bound.low == 0 and not is_nonnegative(draft, source):
        source = _add_relu(draft, node)
    taken.bounds[source] = bound.joined(taken.bounds.get(source))
    for end in ends:
        taken.reads |= {(reader.name, index) for reader, index in draft.readers[end.output[0]]}
        draft.remove([end])
        name = draft.replace_tensor(end.output[0], source)
        taken.bounds[name] = taken.bounds.pop(source)
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


def _bound(scale: NDArray[Any], zero: NDArray[Any]) -> Bound:
    limits = np.iinfo(zero.dtype)
    low = (limits.min - zero.astype(np.float64)) * scale.astype(np.float64)
    high = (limits.max - zero.astype(np.float64)) * scale.astype(np.float64)
    if zero.dtype == np.int8 and not zero.any():
        low = -high  # -128 is never needed: scale = amax / 127
    return Bound(float(low.min()), float(high.max()), scale.dtype)


def _axis(node: onnx.NodeProto, ndim: int) -> int:
    return attribute(node, "axis", 1) % max(ndim, 1)


def _along(values: NDArray[Any], node: onnx.NodeProto, ndim: int) -> NDArray[Any]:
    """Parameters shaped so that they multiply the tensor."""
    if values.size == 1:
        return values.reshape(())
    shape = [1] * ndim
    shape[_axis(node, ndim)] = values.size
    return values.reshape(shape)
