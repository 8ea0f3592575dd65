"""What the layers and additions of a graph are given: its pairs alone, fed with what the float graph computes.

    conv, add, ... --x--> Q --> DQ --> ReLU, pooling, slicing --> x^ --> conv, add, ...

Every node that computes is taken out. What is left has their outputs x as inputs and what the next ones read, x^, as
outputs, so that x^ - x is the rounding of that input and of nothing before it, alike for any two files of one network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgeres.graph.session import GraphSession
from edgeres.graph.view import DQ, Q
from edgeres.quantize.repair.bounds import SHRINKING
from edgeres.quantize.repair.stripping import Read

_AVERAGES = frozenset({"AveragePool", "GlobalAveragePool", "ReduceMean"})
_PASSING = (SHRINKING - _AVERAGES) | {Q, DQ, "Clip"}
Range = tuple[float, float]


class Roundings:
    """The pairs of `model` and what moves tensors between them and the nodes that compute; every node has a name.

    `reads`: (node, input index) of a computing node -> tensor. `sources`: that tensor -> the computed tensor it comes
    from. `rounded`: the tensors that pass a pair. `ranges`: computed tensor -> the range that covers its pairs'.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._passing: list[onnx.NodeProto] = []
        self.reads: dict[Read, str] = {}
        self.sources: dict[str, str] = {}
        self.rounded: set[str] = set()
        self.ranges: dict[str, Range] = {}
        self._session: GraphSession | None = None
        fixed = set(self._constants)
        for node in model.graph.node:
            if node.op_type in _PASSING and node.input[0] in fixed:
                fixed.update(node.output)
            elif node.op_type in _PASSING:
                self._pass(node)
            else:
                self.reads |= {(node.name, i): name for i, name in enumerate(node.input) if name and name not in fixed}

    @property
    def origins(self) -> set[str]:
        """The computed tensors that its rounded reads come from."""
        return {self.source(tensor) for tensor in self.reads.values() if tensor in self.rounded}

    def source(self, tensor: str) -> str:
        """The computed tensor that `tensor` comes from: itself, if nothing stands between."""
        return self.sources.get(tensor, tensor)

    def run(self, values: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Every read tensor made by a passing node, from `values`: the computed tensors, as many as are known.

        Further calls have other values of the same tensors.
        """
        nodes = [
            node
            for node in self._passing
            if self.sources[node.output[0]] in values and all(self._is_given(name, values) for name in node.input[1:])
        ]
        made = {node.output[0] for node in nodes}
        wanted = sorted(made.intersection(self.reads.values()))
        feeds = {name: values[name] for name in {name for node in nodes for name in node.input} & set(values) - made}
        if self._session is None and wanted:
            self._session = GraphSession(self._graph(nodes, feeds), "the pairs alone", wanted)
        return self._session.run(feeds) if self._session else {}

    def _pass(self, node: onnx.NodeProto) -> None:
        output, source = node.output[0], self.source(node.input[0])
        self._passing.append(node)
        self.sources[output] = source
        if node.op_type in (Q, DQ) or node.input[0] in self.rounded:
            self.rounded.add(output)
        if node.op_type == Q and (found := self._range(node)) is not None:
            low, high = self.ranges.get(source, found)
            self.ranges[source] = min(low, found[0]), max(high, found[1])

    def _range(self, node: onnx.NodeProto) -> Range | None:
        """[(qmin - z) s, (qmax - z) s], the widest channel's; None if a parameter is computed."""
        given = [self._constants.get(name) for name in node.input[1:]]
        if any(tensor is None for tensor in given):
            return None
        arrays = [numpy_helper.to_array(tensor) for tensor in given if tensor is not None]
        scale, zero = arrays[0].astype(np.float64), arrays[1] if len(arrays) > 1 else np.zeros((), np.uint8)
        if zero.dtype.kind not in "iu":
            return None
        limits = np.iinfo(zero.dtype)
        ends = [(limit - zero.astype(np.float64)) * scale for limit in (limits.min, limits.max)]
        return float(ends[0].min()), float(ends[1].max())

    def _is_given(self, name: str, values: Mapping[str, NDArray[Any]]) -> bool:
        return not name or name in self._constants or name in values

    def _graph(self, nodes: list[onnx.NodeProto], values: Mapping[str, NDArray[Any]]) -> onnx.ModelProto:
        used = {name for node in nodes for name in node.input}
        inputs = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), [None] * value.ndim)
            for name, value in values.items()
        ]
        stored = [tensor for name, tensor in self._constants.items() if name in used]
        graph = helper.make_graph(nodes, "roundings", inputs, [], stored)
        return helper.make_model(graph, opset_imports=self._model.opset_import, ir_version=self._model.ir_version)
