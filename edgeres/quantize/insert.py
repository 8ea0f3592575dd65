"""Writes the pairs of a placement into a graph: y = scale * clip(round(x / scale), -128, 127).

Weights are stored as int8 with one DequantizeLinear (a quarter of the bytes, the same plan), per output
channel, scale = amax / 127. Every zero point is an explicit int8 0, every activation scale a float32 scalar.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from edgeres.graph.draft import Draft
from edgeres.graph.view import DQ, GraphView, Q, weight_axis
from edgeres.quantize.calibrators import LEVELS
from edgeres.quantize.decision import Decision, IntegerWeight, quantized_weight, rounded_at, row_scale
from edgeres.quantize.placement import Placement, Point

_MIN_AMAX = float(np.finfo(np.float32).tiny) * LEVELS  # below it the scale is no normal float32
Parameters = tuple[np.floating[Any], np.int8 | np.uint8]  # scale and zero point


def with_pairs(model: onnx.ModelProto, placement: Placement, decision: Decision) -> onnx.ModelProto:
    """A copy of the float `model` with the pairs inserted; `decision.amax` names every tensor of `placement.observed`.

    Weights that `decision.weights` does not name are rounded to nearest.
    """
    writer = PairWriter(model, placement, decision)

    def symmetric(point: Point) -> Parameters:
        return np.float32(max(decision.amax[point.scale_of], _MIN_AMAX) / LEVELS), np.int8(0)

    return writer.written(symmetric, lambda layer, _: writer.add_weight(layer, quantized_weight))


def half_decision(model: onnx.ModelProto, placement: Placement, decision: Decision) -> Decision:
    """`decision` with every scale a float16 number, for a graph that `edgeres.graph.opset` makes float16.

    Weights are rounded to those scales, so that the rounding of a scale costs nothing.
    """
    view, weights = GraphView(model), {}
    for layer in view.layers:
        name = layer.input[1]
        if layer.name in placement.layers and name not in weights:
            weight = np.asarray(decision.tensors[name] if name in decision.tensors else view.value(name))
            weights[name] = rounded_at(_up(row_scale(weight)), weight)
    amax = {name: float(_up(np.asarray(bound / LEVELS))) * LEVELS for name, bound in decision.amax.items()}
    return replace(decision, amax=amax, weights=weights)


def _up(scale: NDArray[Any]) -> NDArray[np.float32]:
    """The next float16 number, not below `scale` and not 0; float32."""
    half = scale.astype(np.float16)
    half = np.where(half.astype(np.float64) < scale, np.nextafter(half, np.float16(np.inf)), half)
    return np.maximum(half, np.finfo(np.float16).smallest_subnormal).astype(np.float32)


class PairWriter:
    """Writes the pairs of `placement` and the weights of its layers, in order of execution, under names that are free.

    Integers that `decision.weights` has are taken for weights whose rows are along axis 0.
    """

    def __init__(self, model: onnx.ModelProto, placement: Placement, decision: Decision) -> None:
        self.draft = Draft(model)
        for name, array in decision.tensors.items():
            self.draft.store(name, array)
        self._placement, self._given = placement, decision.weights
        self._nodes: list[onnx.NodeProto] = []
        self._weights: dict[str, tuple[IntegerWeight, str]] = {}
        self._read = {point.tensor: self.draft.free(f"{point.tensor}.dequantized") for point in placement.points}

    def written(
        self, parameters_of: Callable[[Point], Parameters], quantize: Callable[[onnx.NodeProto, str], object]
    ) -> onnx.ModelProto:
        """The model; `quantize` is given every layer of the placement and its input, which was float."""
        points = {point.tensor: point for point in self._placement.points}
        replaced = {reader: self._read[point.tensor] for point in points.values() for reader in point.readers}
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
        """Lets `layer` read integers, those of the decision or its `rounded` rows, made when first asked for."""
        name = layer.input[1]
        if name not in self._weights:
            values = np.asarray(self.draft.value(name))
            axis = weight_axis(layer, values.ndim)
            weight = (self._given.get(name) if axis == 0 else None) or rounded(np.moveaxis(values, axis, 0))
            output, scale = self.draft.free(f"{name}.dequantized"), weight.scale.astype(values.dtype)
            self.add_integers(name, np.moveaxis(weight.values, 0, axis), scale, output, axis=axis)
            self._weights[name] = weight, output
        weight, layer.input[1] = self._weights[name]
        return weight

    def add_integers(
        self, name: str, values: NDArray[Any], scale: NDArray[np.float32], output: str, *, axis: int = 0
    ) -> str:
        """Stores `values` under `name` with a DequantizeLinear along `axis` behind them, which makes `output`."""
        self.draft.store(name, values)
        parameters = self._store(name, scale, np.zeros(len(scale), values.dtype))
        return self._add(DQ, [name, *parameters], output, axis=axis)

    def _add_pair(self, point: Point | None, parameters_of: Callable[[Point], Parameters]) -> None:
        if point is not None:
            parameters = self._store(point.tensor, *map(np.asarray, parameters_of(point)))
            integers = self.draft.free(f"{point.tensor}.quantized")
            self._add(DQ, [self._add(Q, [point.tensor, *parameters], integers), *parameters], self._read[point.tensor])

    def _store(self, name: str, scale: NDArray[Any], zero_point: NDArray[Any]) -> list[str]:
        parts = {"scale": scale, "zero_point": zero_point}
        return [self.draft.store(self.draft.free(f"{name}.{part}"), value) for part, value in parts.items()]

    def _add(self, op: str, inputs: list[str], output: str, axis: int | None = None) -> str:
        self._nodes.append(helper.make_node(op, inputs, [output], name=output, axis=axis))
        return output
