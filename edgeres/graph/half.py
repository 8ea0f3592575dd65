"""FP16 written into a graph: what is not INT8 computes in half precision, input and output stay float32.

TensorRT 11 and TensorRT-RTX take the types from the file and cannot be asked for FP16, so an FP16 engine needs a typed
graph. Pairs keep their places; half-precision scales exist from opset 19.

Source: ONNX, QuantizeLinear-19; TensorRT developer guide, "Strongly typed networks".
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, version_converter

from edgeres.core.errors import InputError
from edgeres.graph.view import QDQ, opset_of

OPSET = 19
_IR_VERSION = 9  # the first that knows opset 19
_FLOAT_PARAMETERS = {"Resize": slice(1, 3)}  # inputs that are float32 whatever the data are


def with_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy, float or with pairs, in float16 between a Cast behind each input and one before each output.

    With pairs its opset is 19 at least; a float graph keeps its own, which TensorRT 8 may still read.

    Raises:
        InputError: a constant is too large for float16, or an operator the conversion does not know.
    """
    result = _at_opset(model)
    graph = result.graph
    kept = {one for node in graph.node for one in node.input[_FLOAT_PARAMETERS.get(node.op_type, slice(0))] if one}
    for node in graph.node:
        if any(entry.HasField("g") for entry in node.attribute) or (
            node.op_type != "Constant" and kept.intersection(node.output)
        ):
            raise InputError(f"cannot write {node.op_type} node {node.name!r} in float16")
        if kept.isdisjoint(node.output):
            _retype(node)
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.name not in kept:
            tensor.CopyFrom(numpy_helper.from_array(_half(numpy_helper.to_array(tensor), tensor.name), tensor.name))
    del graph.value_info[:]
    _add_casts(graph)
    return result


def _half(values: NDArray[Any], name: str) -> NDArray[np.float16]:
    with np.errstate(over="ignore"):
        half: NDArray[np.float16] = values.astype(np.float16)
    if not np.isfinite(half).all():
        raise InputError(f"{name!r} holds {float(np.abs(values).max()):g}, float16 ends at 65504; leave it float32")
    return half


def _at_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    result = deepcopy(model)
    if opset_of(model) < OPSET and any(node.op_type in QDQ for node in model.graph.node):
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
    """Float inputs and outputs keep their names; nodes read and make what has `.half` behind that."""
    inputs, outputs = (
        [value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT]
        for values in (graph.input, graph.output)
    )
    half = {name: f"{name}.half" for name in (*inputs, *outputs)}
    for node in graph.node:
        for tensors in (node.input, node.output):
            tensors[:] = [half.get(name, name) for name in tensors]
    first = [_cast(name, half[name], TensorProto.FLOAT16) for name in inputs]
    nodes = [*first, *graph.node, *(_cast(half[name], name, TensorProto.FLOAT) for name in outputs)]
    del graph.node[:]
    graph.node.extend(nodes)


def _cast(source: str, target: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"{target}.cast", to=kind)
