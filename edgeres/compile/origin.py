"""Which nodes of the ONNX graph a layer of the engine was made from, and what the graph says about an addition.

TensorRT names layers after nodes: "conv1 + relu", "PWN(PWN(add), relu)", "[ONNX Layer: conv1]", and a region it does
not open "ForeignNode[first...last]". A node without a name goes by its output, "node_of_TENSOR".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from edgeres.compile.layers import Layer

LAYER_OPERATORS = frozenset({"Conv", "Gemm", "MatMul"})
_WORD = re.compile(r"[^\s+(),\[\]{}\x1e]+")
_RANGE = "..."
_OURS = re.compile(r"(layer\d+\.\d+)\.")


@dataclass(frozen=True)
class Origin:
    """Names of nodes in the graph's order; `opaque`: the layer names only the first and the last of a region."""

    nodes: tuple[str, ...]
    opaque: bool


class Graph:
    """An onnx.ModelProto by names of nodes."""

    def __init__(self, model: Any) -> None:
        self._graph = model.graph
        self.nodes = {node.name or f"node_of_{node.output[0]}": node for node in model.graph.node}
        self._order = {name: index for index, name in enumerate(self.nodes)}

    @cached_property
    def additions(self) -> dict[str, str]:
        """Module -> its residual addition: an Add of two computed tensors."""
        stored = {tensor.name for tensor in self._graph.initializer}
        found = {}
        for name, node in self.nodes.items():
            if node.op_type == "Add" and not stored.intersection(node.input):
                found[self.module_of(name) or name] = name
        return found

    def module_of(self, name: str) -> str | None:
        """The module a node belongs to by its name, as `edgeres export` writes them."""
        match = _OURS.match(name)
        return match[1] if match else None

    def origin(self, layer: Layer) -> Origin:
        """The nodes of `layer` that are in the graph."""
        found, opaque = set[str](), False
        for word in _WORD.findall(layer.text):
            first, dots, last = word.partition(_RANGE)
            if dots and first in self.nodes and last in self.nodes:
                opaque = True
                found.update(list(self.nodes)[self._order[first] : self._order[last] + 1])
            elif word in self.nodes:
                found.add(word)
        return Origin(tuple(sorted(found, key=self._order.__getitem__)), opaque)

    def operators(self, names: tuple[str, ...]) -> frozenset[str]:
        """Operators of the nodes `names`."""
        return frozenset(self.nodes[name].op_type for name in names)

    def obstacle(self, addition: str) -> str | None:
        """What in the graph keeps TensorRT from adding inside an INT8 convolution; None if nothing does."""
        makers = [self._maker(tensor) for tensor in self.nodes[addition].input]
        branches = [node for node in makers if node is not None and node.op_type in LAYER_OPERATORS]
        quantized = [node for node in makers if node is not None and node.op_type == "DequantizeLinear"]
        if not branches:
            return "no convolution's output is added directly" + (": each is quantized first" if quantized else "")
        if not any(self._reads_quantized(node) for node in branches):
            return "its convolution is float in the graph"
        if not quantized:
            return "its skip has no Q/DQ pair"
        readers = sum(branches[-1].output[0] in node.input for node in self.nodes.values())
        return "its convolution's output is read elsewhere too" if readers > 1 else None

    @cached_property
    def _makers(self) -> dict[str, Any]:
        return {output: node for node in self.nodes.values() for output in node.output}

    def _maker(self, tensor: str) -> Any:
        """The node that computes `tensor`, casts passed over."""
        node = self._makers.get(tensor)
        while node is not None and node.op_type == "Cast":
            node = self._makers.get(node.input[0])
        return node

    def _reads_quantized(self, node: Any) -> bool:
        makers = [self._maker(tensor) for tensor in node.input[:2]]
        return all(maker is not None and maker.op_type == "DequantizeLinear" for maker in makers)
