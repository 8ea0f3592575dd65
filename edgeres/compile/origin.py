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
from edgeres.graph.blocks import blocks_in, module_of
from edgeres.graph.view import DQ, WEIGHTED, GraphView

_WORD = re.compile(r"[^\s+(),\[\]{}\x1e]+")
_RANGE = "..."


@dataclass(frozen=True)
class Origin:
    """Names of nodes in the graph's order; `opaque`: the layer names only the first and the last of a region."""

    nodes: tuple[str, ...]
    opaque: bool


class Graph:
    """An onnx.ModelProto by names of nodes."""

    def __init__(self, model: Any) -> None:
        self._view = GraphView(model)
        self.nodes = {_name_in_engine(node): node for node in self._view.nodes}
        self._order = {name: index for index, name in enumerate(self.nodes)}

    @cached_property
    def additions(self) -> dict[str, str]:
        """Residual module -> the addition that ends it."""
        names = [_name_in_engine(block.addition) for block in blocks_in(self._view)]
        return {module_of(name) or name: name for name in names}

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
        branches = [node for node in makers if node is not None and node.op_type in WEIGHTED]
        quantized = [node for node in makers if node is not None and node.op_type == DQ]
        if not branches:
            return "no convolution's output is added directly" + (": each is quantized first" if quantized else "")
        read = [[self._maker(tensor) for tensor in node.input[:2]] for node in branches]
        if not any(all(maker is not None and maker.op_type == DQ for maker in both) for both in read):
            return "its convolution is float in the graph"
        if not quantized:
            return "its skip has no Q/DQ pair"
        readers = self._view.readers[branches[-1].output[0]]
        return "its convolution's output is read elsewhere too" if len(readers) > 1 else None

    def _maker(self, tensor: str) -> Any:
        """The node that computes `tensor`, casts passed over."""
        node = self._view.producers.get(tensor)
        while node is not None and node.op_type == "Cast":
            node = self._view.maker_of(node)
        return node


def _name_in_engine(node: Any) -> str:
    return node.name or f"node_of_{next(iter(node.output), '')}"
