"""FP16 written into a graph: what is not INT8 computes in half precision, input and output stay float32.

TensorRT 11 and TensorRT-RTX take the types from the file and cannot be asked for FP16, so a mixed INT8 and FP16 engine
needs a typed graph. Half-precision scales exist from opset 19; a scale is rounded to one before the integers are, so
that the rounding of the scale costs nothing.

Source: ONNX, QuantizeLinear-19; TensorRT developer guide, "Strongly typed networks".
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, version_converter

from edgeres.core.errors import InputError
from edgeres.quantize.calibrators import LEVELS
from edgeres.quantize.decision import Decision, IntegerWeight
from edgeres.quantize.graph import GraphView
from edgeres.quantize.insert import quantized_weight
from edgeres.quantize.placement import Placement

OPSET = 19
_IR_VERSION = 9  # the first that knows opset 19
_FLOAT_PARAMETERS = frozenset({"Resize"})  # inputs that are float32 whatever the data are


def with_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy, float or with pairs, in float16 between a Cast behind each input and one before each output.

    Its opset is 19 at least.

    Raises:
        InputError: a constant is too large for float16, or an operator the conversion does not know.
    """
    result = _at_opset(model)
    graph = result.graph
    for node in graph.node:
        if node.op_type in _FLOAT_PARAMETERS or any(entry.HasField("g") for entry in node.attribute):
            raise InputError(f"cannot write {node.op_type} node {node.name!r} in float16")
        _retype(node)
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(_half(numpy_helper.to_array(tensor), tensor.name), tensor.name))
    del graph.value_info[:]
    _add_casts(graph)
    return result


def half_decision(model: onnx.ModelProto, placement: Placement, decision: Decision) -> Decision:
    """`decision` with every scale a float16 number, and the weights rounded to those scales.

    Weights decided elsewhere keep their integers; their scales are rounded to the nearest float16.
    """
    stored = GraphView(model).initializers
    weights = {name: IntegerWeight(given.values, _nearest(given.scale)) for name, given in decision.weights.items()}
    for layer in GraphView(model).layers:
        name = layer.input[1]
        if layer.name in placement.layers and name not in weights:
            weight = decision.tensors[name] if name in decision.tensors else numpy_helper.to_array(stored[name])
            weights[name] = _rounded(np.asarray(weight))
    amax = {name: float(_up(np.asarray(bound / LEVELS))) * LEVELS for name, bound in decision.amax.items()}
    return Decision(amax, weights, decision.tensors)


def _rounded(weight: NDArray[Any]) -> IntegerWeight:
    """To nearest, at the smallest float16 scales that clip nothing."""
    scale = _up(quantized_weight(weight).scale)
    steps = weight / scale.reshape(-1, *[1] * (weight.ndim - 1))
    return IntegerWeight(np.clip(np.rint(steps), -LEVELS, LEVELS).astype(np.int8), scale)


def _up(scale: NDArray[Any]) -> NDArray[np.float32]:
    """The next float16 number, not below `scale` and not 0; float32."""
    half = scale.astype(np.float16)
    half = np.where(half.astype(np.float64) < scale, np.nextafter(half, np.float16(np.inf)), half)
    return np.maximum(half, np.finfo(np.float16).smallest_subnormal).astype(np.float32)


def _nearest(scale: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.maximum(scale.astype(np.float16), np.finfo(np.float16).smallest_subnormal).astype(np.float32)


def _half(values: NDArray[Any], name: str) -> NDArray[np.float16]:
    with np.errstate(over="ignore"):
        half: NDArray[np.float16] = values.astype(np.float16)
    if not np.isfinite(half).all():
        raise InputError(f"{name!r} holds {float(np.abs(values).max()):g}, float16 ends at 65504; leave it float32")
    return half


def _at_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    version = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    if version < OPSET:
        result = version_converter.convert_version(result, OPSET)
        del result.metadata_props[:]
        result.metadata_props.extend(model.metadata_props)
    result.ir_version = max(result.ir_version, _IR_VERSION)
    return result


def _retype(node: onnx.NodeProto) -> None:
    """Constants and casts of the graph itself."""
    for entry in node.attribute:
        if entry.name == "value" and entry.t.data_type == TensorProto.FLOAT:
            entry.t.CopyFrom(numpy_helper.from_array(_half(numpy_helper.to_array(entry.t), node.name)))
        if node.op_type == "Cast" and entry.name == "to" and entry.i == TensorProto.FLOAT:
            entry.i = TensorProto.FLOAT16


def _add_casts(graph: onnx.GraphProto) -> None:
    nodes = list(graph.node)
    casts = []
    for value in graph.input:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            _rename(nodes, value.name, f"{value.name}.half", outputs=False)
            casts.append(_cast(value.name, f"{value.name}.half", TensorProto.FLOAT16))
    nodes = [*casts, *nodes]
    for value in graph.output:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            _rename(nodes, value.name, f"{value.name}.half", outputs=True)
            nodes.append(_cast(f"{value.name}.half", value.name, TensorProto.FLOAT))
    del graph.node[:]
    graph.node.extend(nodes)


def _rename(nodes: list[onnx.NodeProto], old: str, new: str, *, outputs: bool) -> None:
    for node in nodes:
        for index, tensor in enumerate(node.input):
            if tensor == old:
                node.input[index] = new
        for index, tensor in enumerate(node.output):
            if outputs and tensor == old:
                node.output[index] = new


def _cast(source: str, target: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"{target}.cast", to=kind)
