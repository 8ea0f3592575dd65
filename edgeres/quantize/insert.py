"""Writes the pairs of a placement into a graph: y = scale * clip(round(x / scale), -128, 127).

Weights are stored as int8 with one DequantizeLinear (a quarter of the bytes, the same plan), per output
channel, scale = amax / 127. Every zero point is an explicit int8 0, every activation scale a float32 scalar.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgeres.quantize.calibrators import LEVELS
from edgeres.quantize.decision import Decision, quantized_weight
from edgeres.quantize.placement import Placement, Point

_MIN_AMAX = float(np.finfo(np.float32).tiny) * LEVELS  # below it the scale is no normal float32


def with_pairs(model: onnx.ModelProto, placement: Placement, decision: Decision) -> onnx.ModelProto:
    """A copy of the float `model` with the pairs inserted; `decision.amax` names every tensor of `placement.observed`.

    Weights that `decision.weights` does not name are rounded to nearest.
    """
    result = deepcopy(model)
    graph = result.graph
    points = {point.tensor: point for point in placement.points}
    replaced = {reader: point for point in placement.points for reader in point.readers}
    stored = {tensor.name: tensor for tensor in graph.initializer}
    stored |= {name: numpy_helper.from_array(array, name) for name, array in decision.tensors.items()}
    writer = _Writer(stored, decision)
    for value in graph.input:
        writer.add_pair(points.get(value.name))
    for node in graph.node:
        if node.name in placement.layers:
            node.input[1] = writer.add_weight(node.input[1])
        for index in range(len(node.input)):
            if point := replaced.get((node.name, index)):
                node.input[index] = f"{point.tensor}.dequantized"
        writer.nodes.append(node)
        for output in node.output:
            writer.add_pair(points.get(output))
    _replace(graph.node, writer.nodes)
    _replace(graph.initializer, writer.initializers.values())
    return result


class _Writer:
    """Collects the nodes in order of execution and the initializers."""

    def __init__(self, initializers: dict[str, onnx.TensorProto], decision: Decision) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers = initializers
        self._decision = decision
        self._weights: dict[str, str] = {}

    def add_pair(self, point: Point | None) -> None:
        """QuantizeLinear and DequantizeLinear after the point's tensor."""
        if point is None:
            return
        name = point.tensor
        scale = np.float32(max(self._decision.amax[point.scale_of], _MIN_AMAX) / LEVELS)
        parameters = self._store(name, np.asarray(scale), np.asarray(0, np.int8))
        quantized, dequantized = f"{name}.quantized", f"{name}.dequantized"
        self._add("QuantizeLinear", [name, *parameters], quantized)
        self._add("DequantizeLinear", [quantized, *parameters], dequantized)

    def add_weight(self, name: str) -> str:
        """The weight's DequantizeLinear output, made when first asked for."""
        if name not in self._weights:
            given = self._decision.weights.get(name)
            weight = given or quantized_weight(numpy_helper.to_array(self.initializers[name]))
            parameters = self._store(name, weight.scale, np.zeros(len(weight.scale), np.int8))
            self.initializers[name] = numpy_helper.from_array(weight.values, name)
            self._weights[name] = f"{name}.dequantized"
            self._add("DequantizeLinear", [name, *parameters], self._weights[name])
            self.nodes[-1].attribute.append(helper.make_attribute("axis", 0))
        return self._weights[name]

    def _store(self, name: str, scale: NDArray[Any], zero_point: NDArray[Any]) -> list[str]:
        stored = {f"{name}.scale": scale, f"{name}.zero_point": zero_point}
        self.initializers |= {key: numpy_helper.from_array(value, key) for key, value in stored.items()}
        return list(stored)

    def _add(self, op: str, inputs: list[str], output: str) -> None:
        self.nodes.append(helper.make_node(op, inputs, [output], name=output))


def _replace(field: Any, items: Iterable[Any]) -> None:
    items = list(items)
    del field[:]
    field.extend(items)
