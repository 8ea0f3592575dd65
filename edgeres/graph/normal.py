"""A float ONNX file of another exporter, rewritten into the few operators that the placement rule reads.

    Constant, Identity, Dropout      gone: constants become initializers, readers read what was passed on
    constant sub-graphs              computed (transposed weights, folded shapes)
    Conv -> BatchNormalization       folded where nothing else reads the convolution
    MatMul (-> Add)                  Gemm with transB = 1, where a matrix meets constant weights
    Gemm with transB = 0, alpha ...  Gemm with transB = 1 and factors of 1
    ReduceMean over height, width    GlobalAveragePool (and Flatten without keepdims)
    Reshape to a row an image        Flatten, which takes any batch
    nameless nodes, initializers that are inputs too, opset below 13    named, removed, raised to 17

What it computes stays the same up to float rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, shape_inference, version_converter
from onnx.reference import ReferenceEvaluator

from edgeres.core.errors import InputError
from edgeres.graph.view import QDQ

_OLDEST, _OPSET = 13, 17  # scales per channel came with 13; 17 suits TensorRT 8.4 and later
_PASSED_ON = frozenset({"Identity", "Dropout"})
_IMAGE_RANK, _MATRIX_RANK = 4, 2
_EPSILON = 1e-5
_REASON_SHOWN = 120


@dataclass
class _Draft:
    """A graph being rewritten: nodes in order of execution and the constants they read."""

    nodes: list[onnx.NodeProto]
    arrays: dict[str, NDArray[Any]]
    outputs: set[str]

    def maker(self, tensor: str) -> onnx.NodeProto | None:
        return next((node for node in self.nodes if tensor in node.output), None)

    def readers(self, tensor: str) -> list[onnx.NodeProto]:
        return [node for node in self.nodes if tensor in node.input]

    def remove(self, gone: onnx.NodeProto) -> None:
        self.nodes = [node for node in self.nodes if node is not gone]

    def set_parameters(self, node: onnx.NodeProto, arrays: Sequence[NDArray[Any]]) -> None:
        """The node reads its first input and `arrays`, stored under names of its own."""
        names = [f"{node.name}.{suffix}.normalised" for suffix in ("weight", "bias")[: len(arrays)]]
        for name, array in zip(names, arrays, strict=True):
            self.arrays[name] = np.ascontiguousarray(array, np.float32)
        del node.input[1:]
        node.input.extend(names)


def normalised(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the float `model` in the operators above.

    Raises:
        InputError: it is quantized already, its weights are not float32, or it has branches or loops.
    """
    _check(model)
    result = _at_opset(model)
    shapes = _shapes(result)
    ranks = {name: len(shape) for name, shape in shapes.items()}
    draft = _draft_from(result.graph)
    _fold_constants(draft)
    _pass_on(draft)
    _fold_batch_norms(draft)
    _unify_gemms(draft)
    _matmuls_to_gemms(draft, ranks)
    _means_to_pooling(draft, ranks)
    _rows_to_flatten(draft, shapes)
    _write(draft, result.graph)
    return result


def _check(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type in QDQ or node.op_type.startswith("QLinear"):
            raise InputError("the model is quantized already; use the float model it was made from")
        if any(entry.HasField("g") or entry.graphs for entry in node.attribute):
            raise InputError(f"cannot quantize a model with {node.op_type} ({node.name!r}); export it without branches")
    for tensor in model.graph.initializer:
        if tensor.data_type in {TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}:
            kind = TensorProto.DataType.Name(tensor.data_type).lower()
            raise InputError(f"weights of {tensor.name!r} are {kind}; export the model in float32")


def _at_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    result = onnx.ModelProto()
    result.CopyFrom(model)
    version = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if version >= _OLDEST:
        return result
    try:
        converted = version_converter.convert_version(result, _OPSET)
    except (RuntimeError, shape_inference.InferenceError) as err:
        reason = " ".join(str(err).split())[:_REASON_SHOWN]
        raise InputError(f"opset {version} cannot be raised to {_OPSET}: {reason}; export it again") from err
    del converted.metadata_props[:]
    converted.metadata_props.extend(model.metadata_props)
    return converted


def _draft_from(graph: onnx.GraphProto) -> _Draft:
    """Copies; every node has a name of its own, those that are there stay."""
    nodes, seen = [], set[str]()
    for original in graph.node:
        node = onnx.NodeProto()
        node.CopyFrom(original)
        base = node.name or node.output[0]
        repeats = (f"{base}_{number}" if number else base for number in range(len(graph.node) + 1))
        node.name = next(name for name in repeats if name not in seen)
        seen.add(node.name)
        nodes.append(node)
    arrays = {tensor.name: _array_of(tensor) for tensor in graph.initializer}
    return _Draft(nodes, arrays, {value.name for value in graph.output})


def _array_of(tensor: onnx.TensorProto) -> NDArray[Any]:
    try:
        return numpy_helper.to_array(tensor)
    except ValueError as err:
        raise InputError(f"weights of {tensor.name!r} are damaged: {err}") from err


def _write(draft: _Draft, graph: onnx.GraphProto) -> None:
    used = {name for node in draft.nodes for name in node.input} | draft.outputs
    inputs = [_copied(value) for value in graph.input if value.name not in draft.arrays]
    del graph.node[:], graph.initializer[:], graph.value_info[:], graph.input[:]
    graph.input.extend(inputs)
    graph.node.extend(draft.nodes)
    graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in draft.arrays.items() if name in used)


def _fold_constants(draft: _Draft) -> None:
    """Everything computed from constants alone becomes a constant."""
    kept = []
    for node in draft.nodes:
        is_constant = all(name in draft.arrays for name in node.input if name) and not draft.outputs & set(node.output)
        if not is_constant or node.op_type.startswith("Random") or len(node.output) > 1:
            kept.append(node)
            continue
        results: list[Any] = list(
            ReferenceEvaluator(node).run(None, {name: draft.arrays[name] for name in node.input if name})
        )
        draft.arrays[node.output[0]] = np.asarray(results[0])
    draft.nodes = kept


def _pass_on(draft: _Draft) -> None:
    """Removes what changes nothing; the graph's outputs keep their names."""
    alias: dict[str, str] = {}
    kept = []
    for node in draft.nodes:
        for index, name in enumerate(node.input):
            node.input[index] = alias.get(name, name)
        if node.op_type in _PASSED_ON and node.output[0] not in draft.outputs:
            alias[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    draft.nodes = kept


def _fold_batch_norms(draft: _Draft) -> None:
    for norm in [node for node in draft.nodes if node.op_type == "BatchNormalization"]:
        layer = draft.maker(norm.input[0])
        if layer is None or layer.op_type != "Conv" or len(draft.readers(norm.input[0])) > 1:
            continue
        if not all(name in draft.arrays for name in (*layer.input[1:], *norm.input[1:])):
            continue
        weight, *bias = (draft.arrays[name] for name in layer.input[1:])
        folded = folded_batch_norm(norm, [draft.arrays[name] for name in norm.input[1:5]], weight, *bias)
        draft.set_parameters(layer, folded[:2])
        layer.output[0] = norm.output[0]
        draft.remove(norm)


def folded_batch_norm(
    norm: onnx.NodeProto, parameters: Sequence[NDArray[Any]], weight: NDArray[Any], bias: NDArray[Any] | float = 0.0
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """(weight, bias, factor of each row) of a convolution with the batch norm behind it taken in, in float64.

    w' = w f,  b' = (b - mean) f + beta,  f = gamma / sqrt(var + eps);  `parameters`: gamma, beta, mean, var.
    """
    gamma, beta, mean, variance = (array.astype(np.float64) for array in parameters)
    factor = gamma / np.sqrt(variance + _float(norm, "epsilon", _EPSILON))
    return weight * factor.reshape(-1, *[1] * (weight.ndim - 1)), (bias - mean) * factor + beta, factor


def _unify_gemms(draft: _Draft) -> None:
    for node in [node for node in draft.nodes if node.op_type == "Gemm"]:
        alpha, beta = _float(node, "alpha", 1.0), _float(node, "beta", 1.0)
        is_plain = _integer(node, "transB", 0) == 1 and alpha == beta == 1
        if is_plain or _integer(node, "transA", 0) or not all(name in draft.arrays for name in node.input[1:]):
            continue
        weight, *bias = (draft.arrays[name] for name in node.input[1:])
        weight = weight if _integer(node, "transB", 0) else weight.T
        rows = [np.broadcast_to(beta * one.reshape(-1), len(weight)) for one in bias]
        draft.set_parameters(node, [alpha * weight, *rows])
        del node.attribute[:]
        node.attribute.append(helper.make_attribute("transB", 1))


def _matmuls_to_gemms(draft: _Draft, ranks: dict[str, int]) -> None:
    for node in [node for node in draft.nodes if node.op_type == "MatMul"]:
        weight = draft.arrays.get(node.input[1])
        if weight is None or weight.ndim != _MATRIX_RANK or ranks.get(node.input[0]) != _MATRIX_RANK:
            continue
        parameters = [weight.T]
        if (found := _bias_after(draft, node, weight.shape[1])) is not None:
            addition, bias = found
            parameters.append(bias)
            node.output[0] = addition.output[0]
            draft.remove(addition)
        node.op_type = "Gemm"
        draft.set_parameters(node, parameters)
        node.attribute.append(helper.make_attribute("transB", 1))


def _bias_after(draft: _Draft, node: onnx.NodeProto, outputs: int) -> tuple[onnx.NodeProto, NDArray[Any]] | None:
    """The addition of a constant row that alone reads `node`, and the row."""
    readers = draft.readers(node.output[0])
    if len(readers) != 1 or readers[0].op_type != "Add" or node.output[0] in draft.outputs:
        return None
    rows = [draft.arrays[name] for name in readers[0].input if name in draft.arrays]
    fits = len(rows) == 1 and rows[0].size in (1, outputs) and rows[0].ndim <= _MATRIX_RANK
    return (readers[0], np.broadcast_to(rows[0].reshape(-1), outputs)) if fits else None


def _means_to_pooling(draft: _Draft, ranks: dict[str, int]) -> None:
    nodes = []
    for node in draft.nodes:
        nodes.append(node)
        if node.op_type != "ReduceMean" or ranks.get(node.input[0]) != _IMAGE_RANK:
            continue
        axes = draft.arrays.get(node.input[1], ()) if len(node.input) > 1 else _integers(node, "axes")
        if {int(axis) % _IMAGE_RANK for axis in axes} != {2, 3}:
            continue
        keeps, output = _integer(node, "keepdims", 1), node.output[0]
        pooled = output if keeps else f"{node.name}.pooled"
        nodes[-1] = helper.make_node("GlobalAveragePool", [node.input[0]], [pooled], name=node.name)
        if not keeps:
            nodes.append(helper.make_node("Flatten", [pooled], [output], name=f"{node.name}.flatten", axis=1))
    draft.nodes = nodes


def _rows_to_flatten(draft: _Draft, shapes: dict[str, tuple[int, ...]]) -> None:
    """Reshape of feature maps to one row an image, which may name the batch of the export, takes any batch."""
    for node in [node for node in draft.nodes if node.op_type == "Reshape"]:
        before, after = shapes.get(node.input[0], ()), shapes.get(node.output[0], ())
        if node.input[1] in draft.arrays and _is_row_an_image(before, after, draft.arrays[node.input[1]]):
            node.op_type = "Flatten"
            del node.input[1:], node.attribute[:]
            node.attribute.append(helper.make_attribute("axis", 1))


def _is_row_an_image(before: tuple[int, ...], after: tuple[int, ...], asked: NDArray[Any]) -> bool:
    if len(before) != _IMAGE_RANK or len(after) != _MATRIX_RANK:
        return False
    size = math.prod(before[1:])
    return bool(before[0] and before[0] == after[0]) or (size > 0 and asked[1] == size) or list(asked) == [0, -1]


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Of every tensor whose number of dimensions is known; a size that is open is 0."""
    graph = shape_inference.infer_shapes(model).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    types = {value.name: value.type.tensor_type for value in values}
    known = {name: kind.shape.dim for name, kind in types.items() if kind.HasField("shape")}
    return {name: tuple(max(size.dim_value, 0) for size in dims) for name, dims in known.items()}


def _copied(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    """A message that outlives the field it came from."""
    copy = onnx.ValueInfoProto()
    copy.CopyFrom(value)
    return copy


def _attribute(node: onnx.NodeProto, name: str, read: Callable[[onnx.AttributeProto], Any], default: Any) -> Any:
    return next((read(entry) for entry in node.attribute if entry.name == name), default)


def _float(node: onnx.NodeProto, name: str, default: float) -> float:
    return float(_attribute(node, name, lambda entry: entry.f, default))


def _integer(node: onnx.NodeProto, name: str, default: int) -> int:
    return int(_attribute(node, name, lambda entry: entry.i, default))


def _integers(node: onnx.NodeProto, name: str) -> list[int]:
    return list(_attribute(node, name, lambda entry: entry.ints, []))
