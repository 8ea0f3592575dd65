"""Where Quantize/Dequantize pairs go: one rule, read off the float graph, used to calibrate and to quantize.

    conv, gemm      their input, per tensor, and their weights, per output channel; bias and output stay float
    residual add    the skip input only, so that conv + add + ReLU become one kernel with INT8 in and out
      identity      ONE pair serves the skip and the module's first convolution
      projection    the pair stands after the projection
      zero-pad      slice and pad read the pair of the first convolution; a second pair with the same scale
                    stands before the addition
    anything else   nothing: ReLU and pooling commute with the pair that follows them

Of an addition's inputs the skip is the one with fewer layers back to the fork, then with fewer weights, then
the first.

Source: TensorRT developer guide, "Explicit quantization: Q/DQ placement recommendations";
pytorch-quantization and ModelOpt place the pairs of their ResNets in the same way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx

from edgeres.core.errors import InputError
from edgeres.quantize.graph import LAYERS, GraphView, attribute

_MOVERS = frozenset({"Slice", "Pad"})  # change no value, add zeros at most
_UNSUPPORTED = frozenset({"MatMul", "ConvTranspose"})


@dataclass(frozen=True)
class Point:
    """One pair: quantize `tensor`, dequantize, and let `readers` (node, input index) read that.

    `scale_of` is the tensor whose values decide the scale; nearly always `tensor` itself.
    """

    tensor: str
    readers: tuple[tuple[str, int], ...]
    scale_of: str


@dataclass(frozen=True)
class Placement:
    """All pairs of a graph; `layers` get INT8 weights, `additions` have their skip quantized."""

    points: tuple[Point, ...]
    layers: tuple[str, ...]
    additions: tuple[str, ...]

    @property
    def observed(self) -> tuple[str, ...]:
        """The tensors whose statistics are needed."""
        return tuple(dict.fromkeys(point.scale_of for point in self.points))


def placement_of(model: onnx.ModelProto, *, stem: bool = True, head: bool = True) -> Placement:
    """The rule applied to a float graph; without `stem` (`head`) the first (last) layer stays float.

    Raises:
        InputError: the graph has layers the rule does not know.
    """
    view = GraphView(model)
    _check(view)
    layers = view.layers[0 if stem else 1 :]
    if not head:
        layers = [layer for layer in layers if layer.output[0] not in view.outputs]
    readers: dict[str, list[tuple[str, int]]] = {}
    for layer in layers:
        readers.setdefault(layer.input[0], []).append((layer.name, 0))
    scale_of, additions = {}, []
    for addition in view.additions:
        index = skip_index(view, addition)
        if index is None:
            continue
        additions.append(addition.name)
        skip = addition.input[index]
        source, first_mover = _moved_from(view, skip)
        if first_mover is not None and source in readers:
            readers[source].append((first_mover.name, 0))
            scale_of[skip] = source
        readers.setdefault(skip, []).append((addition.name, index))
    points = tuple(Point(tensor, tuple(who), scale_of.get(tensor, tensor)) for tensor, who in readers.items())
    return Placement(points, tuple(layer.name for layer in layers), tuple(additions))


def skip_index(view: GraphView, addition: onnx.NodeProto) -> int | None:
    """Which input of a residual addition is the skip; None if its inputs have no common origin."""
    paths = [_path_back(view, tensor) for tensor in addition.input]
    fork = next((tensor for tensor in paths[0] if tensor in paths[1]), None)
    if fork is None:
        return None
    return min((0, 1), key=lambda index: (paths[index][fork], index))


def _path_back(view: GraphView, tensor: str) -> dict[str, tuple[int, int]]:
    """Tensors from `tensor` back to the graph's input, nearest first -> (layers, weights) on the way."""
    path, layers, weights = {tensor: (0, 0)}, 0, 0
    while (node := view.producers.get(tensor)) is not None:
        if node.op_type in LAYERS:
            layers += 1
            weights += math.prod(view.initializers[node.input[1]].dims)
        tensor = node.input[0]
        path[tensor] = (layers, weights)
    return path


def _moved_from(view: GraphView, tensor: str) -> tuple[str, onnx.NodeProto | None]:
    """The tensor whose values `tensor` holds, and the first of the nodes that move them."""
    first = None
    while view.op_of(tensor) in _MOVERS:
        first = view.producers[tensor]
        tensor = first.input[0]
    return tensor, first


def _check(view: GraphView) -> None:
    for node in view.nodes:
        if node.op_type in _UNSUPPORTED:
            raise InputError(f"cannot quantize {node.op_type} node {node.name!r}; export the checkpoint again")
        if node.op_type in LAYERS and node.input[1] not in view.initializers:
            raise InputError(f"the weights of {node.name!r} are not stored in the graph; export the checkpoint again")
        if node.op_type == "Gemm" and not attribute(node, "transB", 0):
            raise InputError(f"Gemm node {node.name!r} has transB = 0; export the checkpoint again")
