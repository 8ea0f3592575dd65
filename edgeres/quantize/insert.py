"""Writes the pairs of a placement into a graph: y = scale * clip(round(x / scale), -128, 127).

Weights are stored as int8 with one DequantizeLinear (a quarter of the bytes, the same plan), per output
channel, scale = amax / 127. Every zero point is an explicit int8 0, every activation scale a float32 scalar.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from edgeres.graph.draft import Draft
from edgeres.graph.view import DQ, Q
from edgeres.quantize.calibrators import LEVELS
from edgeres.quantize.decision import Decision, IntegerWeight, quantized_weight
from edgeres.quantize.placement import Placement, Point

_MIN_AMAX = float(np.finfo(np.float32).tiny) * LEVELS  # below it the scale is no normal float32
Parameters = tuple[np.float32, np.int8 | np.uint8]  # scale and zero point


def with_pairs(model: onnx.ModelProto, placement: Placement, decision: Decision) -> onnx.ModelProto:
    """A copy of the float `model` with the pairs inserted; `decision.amax` names every tensor of `placement.observed`.

    Weights that `decision.weights` does not name are rounded to nearest.
    """
    writer = PairWriter(model, placement, decision)

    def symmetric(point: Point) -> Parameters:
        return np.float32(max(decision.amax[point.scale_of], _MIN_AMAX) / LEVELS), np.int8(0)

    return writer.written(symmetric, lambda layer, _: writer.add_weight(layer, quantized_weight))


class PairWriter:
    """Writes the pairs of `placement` and the weights of its layers, in order of execution."""

    def __init__(self, model: onnx.ModelProto, placement: Placement, decision: Decision) -> None:
        self.draft = Draft(model)
        for name, array in decision.tensors.items():
            self.draft.store(name, array)
        self._placement, self._given = placement, decision.weights
        self._nodes: list[onnx.NodeProto] = []
        self._weights: dict[str, IntegerWeight] = {}

    def written(
        self, parameters_of: Callable[[Point], Parameters], quantize: Callable[[onnx.NodeProto, str], object]
    ) -> onnx.ModelProto:
        """The model; `quantize` is given every layer of the placement and its input, which was float."""
        points = {point.tensor: point for point in self._placement.points}
        replaced = {reader: f"{point.tensor}.dequantized" for point in points.values() for reader in point.readers}
        for value in self.draft.inputs:
            self._add_pair(points.get(value.name), parameters_of)
        for node in self.draft.nodes:
            inputs = list(node.input)
            for index, tensor in enumerate(inputs):
                node.input[index] = replaced.get((node.name, index), tensor)
            if node.name in self._placement.layers:
                quantize(node, inputs[0])
            self._nodes.append(node)
            for output in node.output:
                self._add_pair(points.get(output), parameters_of)
        self.draft.nodes = self._nodes
        return self.draft.written()

    def add_weight(self, layer: onnx.NodeProto, rounded: Callable[[NDArray[Any]], IntegerWeight]) -> IntegerWeight:
        """Lets `layer` read integers, those of the decision or the `rounded` weight, made when first asked for."""
        name = layer.input[1]
        if name not in self._weights:
            weight = self._given.get(name) or rounded(np.asarray(self.draft.value(name)))
            self._weights[name] = weight
            self.add_integers(name, weight.values, weight.scale, f"{name}.dequantized")
        layer.input[1] = f"{name}.dequantized"
        return self._weights[name]

    def add_integers(self, name: str, values: NDArray[Any], scale: NDArray[np.float32], output: str) -> str:
        """Stores `values` (rows first) under `name` with a DequantizeLinear behind them, which makes `output`."""
        self.draft.store(name, values)
        parameters = self._store(name, scale, np.zeros(len(scale), values.dtype))
        return self._add(DQ, [name, *parameters], output, axis=0)

    def _add_pair(self, point: Point | None, parameters_of: Callable[[Point], Parameters]) -> None:
        if point is not None:
            parameters = self._store(point.tensor, *map(np.asarray, parameters_of(point)))
            quantized = self._add(Q, [point.tensor, *parameters], f"{point.tensor}.quantized")
            self._add(DQ, [quantized, *parameters], f"{point.tensor}.dequantized")

    def _store(self, name: str, scale: NDArray[Any], zero_point: NDArray[Any]) -> list[str]:
        return [self.draft.store(f"{name}.scale", scale), self.draft.store(f"{name}.zero_point", zero_point)]

    def _add(self, op: str, inputs: list[str], output: str, axis: int | None = None) -> str:
        self._nodes.append(helper.make_node(op, inputs, [output], name=output, axis=axis))
        return output
