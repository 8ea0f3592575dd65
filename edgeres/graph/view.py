"""A read-only view of an ONNX graph: who makes and who reads a tensor."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from functools import cached_property

import onnx

LAYERS = frozenset({"Conv", "Gemm"})
QDQ = frozenset({"QuantizeLinear", "DequantizeLinear"})


class GraphView:
    """Indices over `model.graph`; the model must not change while the view is used."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.nodes: list[onnx.NodeProto] = list(model.graph.node)
        self.inputs = [value.name for value in model.graph.input]
        self.outputs = [value.name for value in model.graph.output]
        self.initializers: dict[str, onnx.TensorProto] = {tensor.name: tensor for tensor in model.graph.initializer}

    @cached_property
    def producers(self) -> dict[str, onnx.NodeProto]:
        """Tensor -> the node that makes it; graph inputs and initializers have none."""
        return {output: node for node in self.nodes for output in node.output}

    @cached_property
    def readers(self) -> dict[str, list[tuple[onnx.NodeProto, int]]]:
        """Tensor -> (node, input index) of everything that reads it."""
        return readers_of(self.nodes)

    @property
    def layers(self) -> list[onnx.NodeProto]:
        """Convolutions and fully connected layers in order of execution."""
        return [node for node in self.nodes if node.op_type in LAYERS]

    @property
    def additions(self) -> list[onnx.NodeProto]:
        """Additions of two computed tensors."""
        return [
            node
            for node in self.nodes
            if node.op_type == "Add" and not any(tensor in self.initializers for tensor in node.input)
        ]

    def op_of(self, tensor: str) -> str:
        """The operator that makes `tensor`, empty for graph inputs and initializers."""
        producer = self.producers.get(tensor)
        return producer.op_type if producer else ""


def attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    """An integer attribute of `node`."""
    return next((entry.i for entry in node.attribute if entry.name == name), default)


def readers_of(nodes: Iterable[onnx.NodeProto]) -> dict[str, list[tuple[onnx.NodeProto, int]]]:
    """Tensor -> (node, input index) of everything that reads it."""
    readers = defaultdict(list)
    for node in nodes:
        for index, tensor in enumerate(node.input):
            readers[tensor].append((node, index))
    return readers
