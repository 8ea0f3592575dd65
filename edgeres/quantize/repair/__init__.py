"""Turns any Q/DQ graph into one that TensorRT fuses, from what the graph itself knows.

All pairs are taken out, their ranges kept, and put back where they belong; batch norm is folded in between:

    take out    q = [(qmin - z) s, (qmax - z) s] is the range of a tensor. Where it starts at 0 the pair also was a ReLU
                (ONNX Runtime removes those): the ReLU comes back
    put back    symmetric int8, scale = max(|low|, |high|) / 127, at layer inputs and at the skips of additions; weights
                that already are symmetric int8 keep their integers
    bounds      pass through what cannot enlarge a tensor: ReLU, pooling, slicing, padding with zeros, reshaping

A layer whose input has no known bound becomes float. An average pool between INT8 kernels gets a pair; its range is
the file's own, or is measured on images. Pairs on outputs are not put back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import onnx

from edgeres.core.artifacts import float_skips_of
from edgeres.graph.blocks import fusions_in
from edgeres.graph.draft import Draft
from edgeres.graph.view import QDQ, WEIGHTED
from edgeres.quantize.calibrators import LEVELS
from edgeres.quantize.decision import Decision, quantized_weight
from edgeres.quantize.insert import PairWriter, Parameters
from edgeres.quantize.placement import Placement, Point, Read, add_pools, add_skip
from edgeres.quantize.repair.stripping import SHRINKING, Bound, Taken, bound_of, floated

_FLOAT = SHRINKING | WEIGHTED | QDQ | {"Add", "BatchNormalization", "Clip", "LeakyRelu"}
_MEASURE = "images tell it: --data"
Measure = Callable[[onnx.ModelProto, list[str]], dict[str, float]]  # (float graph, tensors) -> their clipping bounds
_AGAIN = "calibrate the float model and quantize it again"


class Repaired(NamedTuple):
    """`notes`: what could not be kept or completed, one line each."""

    model: onnx.ModelProto
    notes: tuple[str, ...]


def repair(model: onnx.ModelProto, measure: Measure | None = None) -> Repaired:
    """A repaired copy of `model`, which is left as it is; `measure` tells what ranges the file lacks.

    Raises InputError for control flow, and for an opset that cannot be raised to one with scales per channel.
    """
    draft, taken = floated(model)
    readers: dict[str, list[Read]] = {}
    layers, notes = _add_layers(readers, draft, taken)
    notes += _add_skips(readers, draft, taken, layers=set(layers), float_skips=frozenset(float_skips_of(model)))
    notes += _add_pools(readers, draft, taken, layers=set(layers), measure=measure)
    bounds = {one: bound for one in readers if (bound := bound_of(draft, taken.bounds, one)) is not None}
    points = tuple(Point(tensor, tuple(readers[tensor]), tensor) for tensor in bounds)
    placement = Placement(points, tuple(layers), ())
    return Repaired(_with_known_pairs(draft.finish(), placement, bounds, taken), tuple(notes))


def without_pairs(model: onnx.ModelProto) -> onnx.ModelProto:
    """The float graph that `repair` places pairs in: what the file computes but for the rounding of activations."""
    return floated(model)[0].finish()


def _with_known_pairs(
    model: onnx.ModelProto, placement: Placement, bounds: Mapping[str, Bound], taken: Taken
) -> onnx.ModelProto:
    """A copy of the float `model` with the pairs of `placement`, and integers for the weights of its layers."""
    integers = {name: weight for name, weight in taken.weights.items() if weight is not None}
    writer = PairWriter(model, placement, Decision({}, integers))

    def symmetric(point: Point) -> Parameters:
        bound = bounds[point.tensor]
        return bound.dtype.type(max(bound.amax / LEVELS, float(np.finfo(bound.dtype).tiny))), np.int8(0)

    def quantize(layer: onnx.NodeProto, _: str) -> None:
        if layer.input[1] in writer.draft.constants:
            writer.add_weight(layer, lambda rows: quantized_weight(rows.astype(np.float64)))

    return writer.written(symmetric, quantize)


def _add_layers(readers: dict[str, list[Read]], draft: Draft, taken: Taken) -> tuple[list[str], list[str]]:
    """Layers of which anything was quantized become so as a whole, or float: (those that do, notes on the others)."""
    layers: list[str] = []
    notes: list[str] = []
    for node in draft.nodes:
        if node.op_type not in WEIGHTED or not taken.has(node):
            continue
        inputs = [index for index in (0, 1) if node.input[index] not in draft.constants]
        unknown = [node.input[index] for index in inputs if bound_of(draft, taken.bounds, node.input[index]) is None]
        if unknown:
            notes.append(f"{node.name} is float now: the range of {unknown[0]} is not known; {_AGAIN}")
        elif len(inputs) < 2 or all((node.name, index) in taken.reads for index in inputs):
            layers.append(node.name)
            for index in inputs:
                readers.setdefault(node.input[index], []).append((node.name, index))
    return layers, notes


def _add_pools(
    readers: dict[str, list[Read]], draft: Draft, taken: Taken, *, layers: set[str], measure: Measure | None
) -> list[str]:
    """Average pools between quantized layers; notes on those whose range nothing tells."""
    view, notes, wanted = draft.view(), [], {tensor: list(reads) for tensor, reads in readers.items()}
    skips = {node for reads in readers.values() for node, _ in reads} & {node.name for node in view.additions}
    add_pools(wanted, view, int8=layers | skips)
    new = [tensor for tensor, reads in wanted.items() if reads != readers.get(tensor)]
    unknown = [tensor for tensor in new if bound_of(draft, taken.bounds, tensor) is None]
    if unknown and measure is not None:
        kind = next(iter(taken.bounds.values())).dtype
        taken.bounds |= {tensor: Bound(-amax, amax, kind) for tensor, amax in measure(draft.written(), unknown).items()}
    for tensor in new:
        if bound_of(draft, taken.bounds, tensor) is not None:
            readers[tensor] = wanted[tensor]
        else:
            notes.append(f"{wanted[tensor][-1][0]} averages in float: the range of {tensor} is not known; {_MEASURE}")
    return notes


def _add_skips(
    readers: dict[str, list[Read]], draft: Draft, taken: Taken, *, layers: set[str], float_skips: frozenset[str]
) -> list[str]:
    """Skips of residual additions behind a quantized layer, and what else had pairs before; notes on what has not.

    The skips of the additions `float_skips` are float on purpose and stay so.
    """
    view, notes = draft.view(), []
    residual = {block.addition.name: block for block in fusions_in(view)}
    for name, block in residual.items():
        layer = view.layer_before(block.branch)
        fused = layer is not None and layer.name in layers and name not in float_skips
        if not fused and (name, block.skip_index) not in taken.reads:
            continue
        if bound_of(draft, taken.bounds, block.skip) is not None:
            add_skip(readers, view, block)
        else:
            notes.append(f"{name} keeps a float skip: the range of {block.skip} is not known; {_AGAIN}")
    for node in draft.nodes:
        if node.op_type not in _FLOAT or (node.op_type == "Add" and node.name not in residual):
            for index, tensor in enumerate(node.input):
                if (node.name, index) in taken.reads and tensor not in draft.constants:
                    readers.setdefault(tensor, []).append((node.name, index))
    return notes
