"""A graph at another opset, and in half precision.

Onnx's converter raises the opset; lowered it is here, where its operators stay what they are.

The converter has no way back for the Mul of a squeeze-and-excitation. Yet of the operators below only the list of types
grew between the opsets, or attributes came that change nothing at their defaults: for float32 they are the same.

In half precision what is not INT8 computes in float16, input and output stay float32. TensorRT 11 and TensorRT-RTX take
the types from the file and cannot be asked for FP16, so an FP16 engine needs a typed graph. Pairs keep their places;
half-precision scales exist from opset 19.

Source: ONNX, QuantizeLinear-19; TensorRT developer guide, "Strongly typed networks".
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, defs, helper, numpy_helper, shape_inference, version_converter

from edgeres.core.errors import InputError, few_of
from edgeres.graph.view import QDQ, opset_of

_OLDEST, _OPSET = 13, 17  # scales per channel came with 13; 17 suits TensorRT 8.4 and later
_OF_ROWS = frozenset({"Softmax", "LogSoftmax"})  # before 13 of all axes from one on
_SAME = frozenset(
    {
        *("Add", "Sub", "Mul", "Div", "Pow", "Where", "Equal", "GreaterOrEqual", "LessOrEqual"),
        *("Relu", "LeakyRelu", "PRelu", "BatchNormalization", "AveragePool"),
        *("Cast", "Constant", "ConstantOfShape", "Identity", "Reshape", "Shape"),
    }
)
_ONNX = ("", "ai.onnx")
_REASON_SHOWN = 120
HALF_OPSET = 19  # of a graph in half precision that has pairs
_IR_VERSION = 9  # the first that knows it
_FLOAT_PARAMETERS = {"Resize": slice(1, 3)}  # inputs that are float32 whatever the data are


def at_opset(model: onnx.ModelProto, wanted: int | None = None) -> onnx.ModelProto:
    """`model` at the opset `wanted`, or without one raised to 17 if it is below 13; InputError where that cannot be."""
    version = opset_of(model)
    if version == wanted or (wanted is None and version >= _OLDEST):
        return model
    aim = wanted or _OPSET
    try:
        if aim < version and oldest_opset(model, aim) == aim:
            return _lowered(model, aim)
        converted = version_converter.convert_version(_with_ranks(model, aim), aim)
    except (RuntimeError, shape_inference.InferenceError, onnx.checker.ValidationError) as err:
        raise InputError(_refusal(model, version, aim, str(err))) from err
    del converted.metadata_props[:]
    converted.metadata_props.extend(model.metadata_props)
    return converted


def _with_ranks(model: onnx.ModelProto, aim: int) -> onnx.ModelProto:
    """`model` that says of what shape a Softmax's input is: along the last axis the converter leaves it one node then.

    Inference at the newer opset knows more of them, as Shape tells its value there.
    """
    read = {node.input[0] for node in model.graph.node if node.op_type in _OF_ROWS}
    if not read or opset_of(model) >= _OLDEST:
        return model
    newer = shape_inference.infer_shapes(version_converter.convert_version(model, aim), data_prop=True).graph.value_info
    ranked = deepcopy(model)
    del ranked.graph.value_info[:]
    ranked.graph.value_info.extend(value for value in newer if value.name in read)
    return ranked


def oldest_opset(model: onnx.ModelProto, wanted: int) -> int:
    """The first opset from `wanted` on that `model` is lowered to; `wanted` itself where it is not newer than that."""
    version = opset_of(model)
    return next((aim for aim in range(wanted, version) if not list(_in_the_way(model, aim))), max(version, wanted))


def _refusal(model: onnx.ModelProto, version: int, aim: int, said: str) -> str:
    reason = " ".join(said.split())[:_REASON_SHOWN]
    if aim > version:
        return f"opset {version} cannot be raised to {aim}: {reason}; export it again"
    operators = few_of(sorted({node.op_type for node in _in_the_way(model, aim)}))
    reason = f"{operators} cannot be written so" if operators else reason
    return f"opset {version} cannot be lowered to {aim}: {reason}; take {oldest_opset(model, aim + 1)} (--opset)"


def _in_the_way(model: onnx.ModelProto, aim: int) -> Iterator[onnx.NodeProto]:
    """Nodes that are not the same at the older opset `aim`."""
    version = opset_of(model)
    for node in (node for node in model.graph.node if node.domain in _ONNX):
        try:
            new, old = (defs.get_schema(node.op_type, opset, "") for opset in (version, aim))
        except defs.SchemaError:  # it came later
            yield node
            continue
        if new.since_version != old.since_version and not (node.op_type in _SAME and _is_plain(node, new, old)):
            yield node


def _is_plain(node: onnx.NodeProto, new: defs.OpSchema, old: defs.OpSchema) -> bool:
    """Whether all attributes that the older operator lacks are at their defaults."""
    more = [entry for entry in node.attribute if entry.name not in old.attributes]
    return all(entry == new.attributes[entry.name].default_value for entry in more)


def _lowered(model: onnx.ModelProto, aim: int) -> onnx.ModelProto:
    """A copy of `model` that asks for the older opset; checked."""
    lowered = deepcopy(model)
    for node in (node for node in lowered.graph.node if node.domain in _ONNX):
        old = defs.get_schema(node.op_type, aim, "")
        kept = [entry for entry in node.attribute if entry.name in old.attributes]
        del node.attribute[:]
        node.attribute.extend(kept)
    for entry in lowered.opset_import:
        if entry.domain in _ONNX:
            entry.version = aim
    onnx.checker.check_model(lowered, full_check=True)
    return lowered


def with_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy, float or with pairs, in float16 between a Cast behind each input and one before each output.

    With pairs its opset is 19 at least; a float graph keeps its own, which TensorRT 8 may still read.

    Raises:
        InputError: a constant is too large for float16, or an operator the conversion does not know.
    """
    result = _with_half_scales(model)
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


def _with_half_scales(model: onnx.ModelProto) -> onnx.ModelProto:
    result = deepcopy(model)
    if opset_of(model) < HALF_OPSET and any(node.op_type in QDQ for node in model.graph.node):
        result = version_converter.convert_version(result, HALF_OPSET)
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
