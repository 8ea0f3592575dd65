"""Puts pairs back: layer inputs and weights, the skips of residual additions, and what else was quantized before."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeres.graph.blocks import Block, blocks_in
from edgeres.graph.draft import Draft
from edgeres.graph.view import DQ, WEIGHTED, Q, weight_axis
from edgeres.quantize.decision import IntegerWeight, quantized_weight
from edgeres.quantize.repair.bounds import MOVERS, SHRINKING, Bound, bound_of
from edgeres.quantize.repair.stripping import Read, Taken

_LEVELS = 127
_FLOAT = SHRINKING | WEIGHTED | {"Add", "BatchNormalization", "Clip", "LeakyRelu", Q, DQ}
_AGAIN = "calibrate the float model and quantize it again"


def place(draft: Draft, taken: Taken, float_skips: frozenset[str] = frozenset()) -> list[str]:
    """Writes the pairs; returns a line for everything that stays float because its range is not known.

    The skips of the additions `float_skips` are float on purpose and stay so.
    """
    placer = _Placer(draft, taken)
    layers = placer.place_layers()
    placer.place_skips(layers, float_skips)
    for name in layers:
        _write_weight(draft, name, taken)
    bounds = {tensor: bound_of(draft, taken.bounds, tensor) for tensor in placer.points}
    for tensor, readers in placer.points.items():
        if (bound := bounds[tensor]) is not None:
            _write_pair(draft, tensor, readers, bound)
    return placer.notes


class _Placer:
    """Decides who reads a pair; `points` is tensor -> (node, input index) of its readers."""

    def __init__(self, draft: Draft, taken: Taken) -> None:
        self.draft, self.taken = draft, taken
        self.notes: list[str] = []
        self.points: dict[str, list[Read]] = {}

    def place_layers(self) -> list[str]:
        """Points of the layers that will be quantized; their names in the graph's order."""
        chosen = []
        for node in self.draft.nodes:
            if node.op_type not in WEIGHTED or not self.taken.has(node):
                continue
            inputs = [index for index in (0, 1) if node.input[index] not in self.draft.constants]
            unknown = [node.input[index] for index in inputs if not self._is_known(node.input[index])]
            if unknown:
                self.notes.append(f"{node.name} is float now: the range of {unknown[0]} is not known; {_AGAIN}")
            elif len(inputs) < 2 or all((node.name, index) in self.taken.reads for index in inputs):
                chosen.append(node.name)
                for index in inputs:
                    self._add(node, index)
        return chosen

    def place_skips(self, layers: list[str], float_skips: frozenset[str]) -> None:
        """Points of residual additions behind one of `layers`, and of what else had pairs before."""
        view = self.draft.view()
        residual = {block.addition.name: block for block in blocks_in(view)}
        for name, block in residual.items():
            layer = view.layer_before(block.branch)
            fused = layer is not None and layer.name in layers and name not in float_skips
            if fused or (name, block.skip_index) in self.taken.reads:
                self._place_skip(block)
        for node in self.draft.nodes:
            if node.op_type not in _FLOAT or (node.op_type == "Add" and node.name not in residual):
                self._keep(node)

    def _place_skip(self, block: Block) -> None:
        tensor = source = block.skip
        if not self._is_known(tensor):
            self.notes.append(f"{block.addition.name} keeps a float skip: the range of {tensor} is not known; {_AGAIN}")
            return
        producers, first = self.draft.producers, None
        while (maker := producers.get(source)) is not None and maker.op_type in MOVERS:
            first, source = maker, maker.input[0]
        if first is not None and source in self.points:
            self._add(first, 0)
        self._add(block.addition, block.skip_index)

    def _keep(self, node: onnx.NodeProto) -> None:
        """Operators of other kinds keep the pairs they had."""
        for index, tensor in enumerate(node.input):
            if (node.name, index) in self.taken.reads and tensor not in self.draft.constants:
                self._add(node, index)

    def _add(self, node: onnx.NodeProto, index: int) -> None:
        self.points.setdefault(node.input[index], []).append((node.name, index))

    def _is_known(self, tensor: str) -> bool:
        return bound_of(self.draft, self.taken.bounds, tensor) is not None


def _write_weight(draft: Draft, name: str, taken: Taken) -> None:
    """Integers and a DequantizeLinear for a layer's weight."""
    node = next(node for node in draft.nodes if node.name == name)
    weight, values = node.input[1], draft.value(node.input[1])
    if values is None:
        return
    axis = weight_axis(node, values.ndim)
    integers = (taken.weights.get(weight) if axis == 0 else None) or _rounded(values, axis)
    scale = integers.scale.astype(values.dtype)
    stored = [
        draft.store(draft.free(f"{weight}.{part}"), array)
        for part, array in (
            ("int8", integers.values),
            ("scale", scale),
            ("zero_point", np.zeros(scale.shape, np.int8)),
        )
    ]
    output = draft.free(f"{weight}.dequantized")
    draft.insert_after("", DQ, stored, output, axis=axis)
    node.input[1] = output


def _rounded(weight: NDArray[Any], axis: int) -> IntegerWeight:
    """One scale per channel of `axis`."""
    rows = quantized_weight(np.moveaxis(weight.astype(np.float64), axis, 0))
    return IntegerWeight(np.moveaxis(rows.values, 0, axis), rows.scale)


def _write_pair(draft: Draft, tensor: str, readers: list[Read], bound: Bound) -> None:
    smallest = float(np.finfo(bound.dtype).tiny)
    scale = draft.store(draft.free(f"{tensor}.scale"), np.asarray(max(bound.amax / _LEVELS, smallest), bound.dtype))
    zero = draft.store(draft.free(f"{tensor}.zero_point"), np.asarray(0, np.int8))
    integers, output = draft.free(f"{tensor}.quantized"), draft.free(f"{tensor}.dequantized")
    draft.insert_after(tensor, Q, [tensor, scale, zero], integers)
    draft.insert_after(integers, DQ, [integers, scale, zero], output)
    wanted = set(readers)
    for node in draft.nodes:
        for index in range(len(node.input)):
            if (node.name, index) in wanted:
                node.input[index] = output
