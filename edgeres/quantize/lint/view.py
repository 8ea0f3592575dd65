"""A view of any Q/DQ graph: constants wherever they are kept, names for nodes that have none, residual additions."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeres.graph.view import readers_of

Q, DQ = "QuantizeLinear", "DequantizeLinear"
LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_ONNX = ("", "ai.onnx")
_ALIASES = frozenset({"Identity", "Dropout"})
_WEIGHT_MOVERS = frozenset({"Transpose", "Reshape", "Identity", "Squeeze", "Unsqueeze", "Cast"})


class QuantizedGraph:
    """Indices over `graph`; it must not change while the view is used. `outer` is the graph around an If's body."""

    def __init__(self, graph: onnx.GraphProto, opset: int, outer: QuantizedGraph | None = None) -> None:
        self.nodes: list[onnx.NodeProto] = list(graph.node)
        self.inputs = {value.name for value in graph.input}
        self.outputs = [value.name for value in graph.output]
        self.opset = opset
        self._constants: dict[str, onnx.TensorProto] = dict(outer._constants) if outer else {}
        self._constants |= {tensor.name: tensor for tensor in graph.initializer}
        for node in self.nodes:
            if (tensor := _constant_of(node, self._constants)) is not None:
                self._constants[node.output[0]] = tensor

    @cached_property
    def producers(self) -> dict[str, onnx.NodeProto]:
        """Tensor -> the node that makes it."""
        return {output: node for node in self.nodes for output in node.output if output}

    @cached_property
    def readers(self) -> dict[str, list[tuple[onnx.NodeProto, int]]]:
        """Tensor -> (node, input index) of everything that reads it."""
        return readers_of(self.nodes)

    def stored(self, tensor: str) -> onnx.TensorProto | None:
        """The constant behind `tensor`, None if it is computed."""
        return self._constants.get(tensor)

    def value(self, tensor: str) -> NDArray[Any] | None:
        """The constant's values, None if it is computed."""
        stored = self.stored(tensor)
        return None if stored is None else numpy_helper.to_array(stored)

    def op_of(self, tensor: str) -> str:
        """The operator that makes `tensor`, empty for inputs and constants."""
        return self.producers[tensor].op_type if tensor in self.producers else ""

    def source_of(self, pair_end: onnx.NodeProto) -> str | None:
        """The float tensor behind a DequantizeLinear; None if its integers are not made by a QuantizeLinear."""
        maker = self.producers.get(pair_end.input[0])
        return maker.input[0] if maker is not None and maker.op_type == Q else None

    def is_weight(self, node: onnx.NodeProto) -> bool:
        """Whether a Q or DQ node works on a constant."""
        data = node.input[0]
        if node.op_type == DQ and self.stored(data) is None:
            data = self.source_of(node) or data
        return self.stored(data) is not None

    def weight_pair(self, tensor: str) -> onnx.NodeProto | None:
        """The DequantizeLinear behind a layer's weight input, seen through transpositions and the like."""
        node = self.producers.get(tensor)
        while node is not None and node.op_type in _WEIGHT_MOVERS:
            node = self.producers.get(node.input[0])
        return node if node is not None and node.op_type == DQ else None

    @cached_property
    def additions(self) -> list[tuple[onnx.NodeProto, int]]:
        """(Add, index of its skip input) of every residual addition: two computed tensors with a common origin.

        The skip has fewer layers back to the fork, then fewer weights, then comes first.
        """
        found = []
        for node in self.nodes:
            if node.op_type == "Add" and not any(self.stored(tensor) for tensor in node.input):
                index = self._skip_index(node)
                if index is not None:
                    found.append((node, index))
        return found

    def layer_before(self, tensor: str) -> onnx.NodeProto | None:
        """The nearest layer on the way back from `tensor`, unless an addition comes first."""
        node = self.producers.get(tensor)
        while node is not None and node.op_type not in LAYERS | {"Add"}:
            node = self.producers.get(node.input[0]) if node.input else None
        return node if node is not None and node.op_type in LAYERS else None

    def _skip_index(self, node: onnx.NodeProto) -> int | None:
        first, second = (self._path_back(tensor) for tensor in node.input)
        fork = next((tensor for tensor in first if tensor in second), None)
        if fork is None or first[fork] == second[fork] == (0, 0):
            return None
        return 0 if first[fork] <= second[fork] else 1

    def _path_back(self, tensor: str) -> dict[str, tuple[int, int]]:
        """Tensors back to the graph's input, nearest first -> (layers, weights) on the way."""
        path, layers, weights = {tensor: (0, 0)}, 0, 0
        while (node := self.producers.get(tensor)) is not None and node.input:
            if node.op_type in LAYERS:
                layers += 1
                weights += self._weight_size(node)
            tensor = node.input[0]
            if tensor in path:
                break
            path[tensor] = (layers, weights)
        return path

    def _weight_size(self, node: onnx.NodeProto) -> int:
        pair = self.weight_pair(node.input[1])
        tensor = node.input[1] if pair is None else pair.input[0]
        stored = self.stored(tensor)
        if stored is None and pair is not None:
            stored = self.stored(self.source_of(pair) or "")
        return math.prod(stored.dims) if stored is not None else 0


def name_of(node: onnx.NodeProto) -> str:
    """The node's name, or its operator and output if it has none."""
    return node.name or f"{node.op_type} -> {node.output[0] if node.output else '?'}"


def attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    """An integer attribute of `node`."""
    return next((int(entry.i) for entry in node.attribute if entry.name == name), default)


def weight_axis(node: onnx.NodeProto, ndim: int) -> int:
    """The axis of a layer's weight that counts its output channels."""
    if node.op_type == "MatMul":
        return ndim - 1
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    return 1 if node.op_type == "ConvTranspose" else 0


def _constant_of(node: onnx.NodeProto, known: dict[str, onnx.TensorProto]) -> onnx.TensorProto | None:
    """The tensor a Constant node, or an Identity of a constant, stands for."""
    if node.op_type in _ALIASES and node.domain in _ONNX and node.input:
        return known.get(node.input[0])
    if node.op_type != "Constant" or node.domain not in _ONNX or not node.output:
        return None
    for entry in node.attribute:
        if entry.name == "value":
            tensor: onnx.TensorProto = entry.t
            return tensor
        if entry.name in ("value_float", "value_floats"):
            values = np.asarray(entry.f if entry.name == "value_float" else list(entry.floats), np.float32)
            return numpy_helper.from_array(values, node.output[0])
        if entry.name in ("value_int", "value_ints"):
            integers = np.asarray(entry.i if entry.name == "value_int" else list(entry.ints), np.int64)
            return numpy_helper.from_array(integers, node.output[0])
    return None
