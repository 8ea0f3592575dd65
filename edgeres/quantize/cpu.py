"""A graph that ONNX Runtime's CPU provider fuses into integer kernels: QLinearConv, QLinearAdd, QGemm.

    activations   uint8, x = scale * (q - zero_point) over [lo, hi] with 0 inside; a ReLU disappears in lo = 0
    weights       int8 per output channel, zero point 0, amax = 127 steps (63 where sums of two products must fit in
                  16 bits: x86 without VNNI or AMX adds u8 x s8 products in saturating int16)
    biases        int32, scale = scale of the input times scale of the weight

TensorRT refuses such a file: it wants zero points of 0 and float biases. Source: ONNX Runtime documentation, "Quantize
ONNX models", data type selection and reduce_range.
"""

from __future__ import annotations

import platform
from collections.abc import Collection, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgeres.core.environment import cpu_flags
from edgeres.core.errors import InputError
from edgeres.quantize.decision import Decision, IntegerWeight, rounded_at, row_scale
from edgeres.quantize.placement import Placement, Point

ReduceRange = Literal["auto", "on", "off"]
_LEVELS, _REDUCED_LEVELS = 127, 63
_STEPS = 255
_TINY = float(np.finfo(np.float32).tiny) * _STEPS
_MOST_BIAS = 1 << 30  # steps of a bias; half of int32, so that the products fit beside it
_WIDE = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})


@dataclass(frozen=True)
class Affine:
    """x = scale * (q - zero_point), q in [0, 255]."""

    scale: np.float32
    zero_point: np.uint8


def has_wide_sums(flags: Collection[str], architecture: str) -> bool:
    """Whether a CPU adds int8 products in 32 bits: Arm always, x86 with VNNI or AMX among its `flags`."""
    return architecture.lower() in {"aarch64", "arm64"} or not _WIDE.isdisjoint(flags)


def reduces_range(choice: ReduceRange) -> bool:
    """Whether weights get 7 bits; `auto` asks this machine's CPU and takes 7 where it cannot tell."""
    return choice == "on" or (choice == "auto" and not has_wide_sums(cpu_flags(), platform.machine()))


def affine_from(low: float, high: float) -> Affine:
    """uint8 parameters that cover [low, high] and represent 0 exactly."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max(high - low, _TINY) / _STEPS
    return Affine(np.float32(scale), np.uint8(np.clip(np.rint(-low / scale), 0, _STEPS)))


def with_affine_pairs(
    model: onnx.ModelProto,
    placement: Placement,
    decision: Decision,
    *,
    extremes: Mapping[str, tuple[float, float]],
    reduce_range: bool,
) -> onnx.ModelProto:
    """A copy of the float `model` with the pairs of `cpu_placement_of`.

    `extremes` are the smallest and largest value of each tensor: [lo, hi] = [-amax, amax] within them.

    Raises:
        InputError: weights were rounded to 8 bits elsewhere, and 7 are asked for.
    """
    if reduce_range and decision.weights:
        raise InputError("learned rounding is for 8-bit weights, this CPU needs 7; leave one out (reduce_range = off)")
    result = deepcopy(model)
    writer = _Writer(result.graph, placement, decision, dict(extremes), _REDUCED_LEVELS if reduce_range else _LEVELS)
    writer.write()
    return result


class _Writer:
    """Rewrites one graph in place."""

    def __init__(
        self,
        graph: onnx.GraphProto,
        placement: Placement,
        decision: Decision,
        extremes: dict[str, tuple[float, float]],
        levels: int,
    ) -> None:
        self._graph, self._placement, self._decision = graph, placement, decision
        self._extremes, self._levels = extremes, levels
        self._stored = {tensor.name: tensor for tensor in graph.initializer}
        for name, array in decision.tensors.items():
            self._stored[name] = numpy_helper.from_array(array, name)
        self._nodes: list[onnx.NodeProto] = []
        self._affine = {point.tensor: self._affine_of(point) for point in placement.points}
        self._scales: dict[str, NDArray[np.float32]] = {}

    def write(self) -> None:
        """Nodes and initializers of the quantized graph, in order of execution."""
        replaced = {reader: point.tensor for point in self._placement.points for reader in point.readers}
        for value in self._graph.input:
            self._add_pair(value.name)
        for node in list(self._graph.node):
            source = node.input[0]
            for index in range(len(node.input)):
                if tensor := replaced.get((node.name, index)):
                    node.input[index] = f"{tensor}.dequantized"
            if node.name in self._placement.layers:
                self._add_parameters(node, source)
            self._nodes.append(node)
            for output in node.output:
                self._add_pair(output)
        del self._graph.node[:], self._graph.initializer[:]
        self._graph.node.extend(self._nodes)
        self._graph.initializer.extend(self._stored.values())

    def _affine_of(self, point: Point) -> Affine:
        amax, (low, high) = self._decision.amax[point.scale_of], self._extremes[point.scale_of]
        if low == high == 0:  # never seen alive: what it may hold elsewhere is kept up to amax
            return affine_from(-amax, amax)
        return affine_from(max(low, -amax), min(high, amax))

    def _add_pair(self, tensor: str) -> None:
        if tensor not in self._affine:
            return
        affine, quantized = self._affine[tensor], f"{tensor}.quantized"
        parameters = self._store(tensor, np.asarray(affine.scale), np.asarray(affine.zero_point))
        self._add("QuantizeLinear", [tensor, *parameters], quantized)
        self._add("DequantizeLinear", [quantized, *parameters], f"{tensor}.dequantized")

    def _add_parameters(self, node: onnx.NodeProto, source: str) -> None:
        """Weight and bias of a layer whose input is `source`, each behind a DequantizeLinear."""
        bias = node.input[2] if len(node.input) > 2 else ""
        values = numpy_helper.to_array(self._stored[bias]).astype(np.float64) if bias else np.zeros(1)
        scale = np.float64(self._affine[source].scale)
        node.input[1] = self._weight(node.input[1], np.abs(values) / scale / _MOST_BIAS)
        if bias:
            scales = (scale * self._scales[node.input[1]]).astype(np.float32)
            node.input[2] = self._bias(f"{node.name}.bias", values, scales)

    def _weight(self, name: str, smallest: NDArray[np.float64]) -> str:
        """`smallest` scales keep the bias within int32."""
        dequantized = f"{name}.dequantized"
        if dequantized not in self._scales:
            weight = self._decision.weights.get(name) or self._rounded(name, smallest)
            parameters = self._store(name, weight.scale, np.zeros(len(weight.scale), np.int8))
            self._stored[name] = numpy_helper.from_array(weight.values, name)
            self._scales[dequantized] = weight.scale
            self._add("DequantizeLinear", [name, *parameters], dequantized, axis=0)
        return dequantized

    def _rounded(self, name: str, smallest: NDArray[np.float64]) -> IntegerWeight:
        weight = numpy_helper.to_array(self._stored[name])
        scale = np.maximum(row_scale(weight, self._levels), smallest.astype(np.float32))
        return rounded_at(scale, weight, self._levels)

    def _bias(self, name: str, values: NDArray[np.float64], scale: NDArray[np.float32]) -> str:
        """Stored anew for each layer: its scale depends on the layer's input."""
        steps = np.rint(values / scale)
        if np.abs(steps).max() > np.iinfo(np.int32).max:
            raise InputError(f"{name!r} does not fit in int32 steps of its weights; quantize it for tensorrt instead")
        integer, dequantized = f"{name}.int32", f"{name}.dequantized"
        self._stored[integer] = numpy_helper.from_array(steps.astype(np.int32), integer)
        parameters = self._store(integer, scale, np.zeros(len(scale), np.int32))
        self._add("DequantizeLinear", [integer, *parameters], dequantized, axis=0)
        return dequantized

    def _store(self, name: str, scale: NDArray[Any], zero_point: NDArray[Any]) -> list[str]:
        stored = {f"{name}.scale": scale, f"{name}.zero_point": zero_point}
        self._stored |= {key: numpy_helper.from_array(value, key) for key, value in stored.items()}
        return list(stored)

    def _add(self, op: str, inputs: list[str], output: str, axis: int | None = None) -> None:
        node = helper.make_node(op, inputs, [output], name=output)
        if axis is not None:
            node.attribute.append(helper.make_attribute("axis", axis))
        self._nodes.append(node)
