"""Where Quantize/Dequantize pairs go: one rule, read off the float graph, used to calibrate and to quantize.

    conv, gemm      their input, per tensor, and their weights, per output channel; bias and output stay float
    residual add    the skip input only, so that conv + add + ReLU become one kernel with INT8 in and out
      identity      ONE pair serves the skip and the module's first convolution
      projection    the pair stands after the projection
      zero-pad      slice and pad read the pair of the first convolution; a second pair with the same scale
                    stands before the addition
    average pool    its input, where INT8 makes it and reads the average: such a pool is a layer, it does not commute
                    with the pair behind it, and float in front of it is what the addition before has to write
    classifier      where it reads an average of few positions it is first written as a 1x1 convolution in front of it,
                    so that the average, which no other rounding averages out, is not rounded
    anything else   nothing: ReLU and maximum pooling commute with the pair that follows them, gates and norms are float

Matrix products of attention, transposed and 1-d convolutions and layers whose weights are computed stay float.

Which of an addition's inputs is the skip is said by `edgeres.graph.blocks`.

A CPU has an integer convolution but no integer Pad, which would cost a way to float and back in each module that pads.
There every second pixel and new channels of zeros are a convolution, whose kernel of ones and zeros computes the same:

    x -> Slice ... -> Pad -> y   becomes   x -> Conv(1x1, stride 2, W[front + i, i] = 1) -> y

A classifier W behind an average costs a rounding of the average that nothing averages out (0.3 dB of ResNet-56):

    x -> average -> Flatten -> Gemm(W)   becomes   x -> Conv(1x1, W) -> average -> Flatten

Source: TensorRT developer guide, "Explicit quantization: Q/DQ placement recommendations";
pytorch-quantization and ModelOpt place the pairs of their ResNets in the same way. The pair in front of the pool takes
a ResNet-18 on an A100, batch 32, from 0.546 to 0.500 ms: engines published with NVIDIA's trt-engine-explorer.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
from onnx import helper

from edgeres.core.errors import InputError
from edgeres.graph.blocks import Block, fusions_in, nodes_named
from edgeres.graph.draft import Draft
from edgeres.graph.normal import shapes_in
from edgeres.graph.view import LAYERS, WEIGHTED, GraphView, attribute

MOVERS = frozenset({"Slice", "Pad"})  # change no value, add zeros at most
RESHAPERS = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Identity", "Dropout"})
COMMUTING = RESHAPERS | {"MaxPool"}  # with a pair; their output reaches the input's maximum
_WHOLE = "GlobalAveragePool"
_AVERAGES = frozenset({"AveragePool", _WHOLE})
_KEEP_SCALE = MOVERS | {"MaxPool", "Flatten"}
_INTEGER = _KEEP_SCALE | LAYERS | _AVERAGES | {"Add"}
_ACTIVATIONS = frozenset({"Relu", "Clip"})
_IMAGE_WEIGHT, _MATRIX = 4, 2  # dimensions of the weights of what is quantized
_RANK, _CHANNELS = 4, 1  # of what is padded: dimensions, and where among them channels stand
Read = tuple[str, int]  # name of a node, index of its input


@dataclass(frozen=True)
class Point:
    """One pair: quantize `tensor`, dequantize, and let `readers` (node, input index) read that.

    `scale_of` is the tensor whose values decide the scale; nearly always `tensor` itself.
    """

    tensor: str
    readers: tuple[Read, ...]
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


@dataclass(frozen=True)
class Options:
    """What stays float, and for `ort-cpu` whether weights get 7 bits (`auto`: where this machine's CPU needs it).

    Without `stem` (`head`) it is the first (last) layer. `keep` names layers and modules (`modules_in`), with the
    additions that end them: an addition's skip is left alone where the addition lies in a kept module, the layer that
    feeds its branch is kept, or the skip itself is (`skips_in`).
    """

    stem: bool = True
    head: bool = True
    keep: tuple[str, ...] = ()
    reduce_range: Literal["auto", "on", "off"] = "auto"


ALL_INT8 = Options()


def placement_of(model: onnx.ModelProto, options: Options = ALL_INT8) -> Placement:
    """The rule applied to a float graph; raises InputError for layers it does not know, and names the graph lacks."""
    view = GraphView(model)
    kept = _kept(view, options)
    layers = [layer for layer in view.layers if layer.name not in kept]
    readers: dict[str, list[Read]] = {}
    for layer in layers:
        readers.setdefault(layer.input[0], []).append((layer.name, 0))
    scale_of, additions = dict[str, str](), []
    for block in fusions_in(view):
        name, before = block.addition.name, view.layer_before(block.branch)
        if name in kept or (before is not None and before.name in kept):
            continue
        additions.append(name)
        scale_of[block.skip] = add_skip(readers, view, block)
    add_pools(readers, view, int8={layer.name for layer in layers}.union(additions), kept=kept)
    points = tuple(Point(tensor, tuple(who), scale_of.get(tensor, tensor)) for tensor, who in readers.items())
    return Placement(points, tuple(layer.name for layer in layers), tuple(additions))


def cpu_placement_of(model: onnx.ModelProto, options: Options = ALL_INT8) -> Placement:
    """Pairs around every operator that ONNX Runtime's CPU provider has in integers, so that it fuses all of them.

    Every input of such an operator and its output, behind a ReLU where one follows. What moves values keeps the
    scale. `additions` are those with both inputs quantized. Raises the same errors as `placement_of`.
    """
    view = GraphView(model)
    kept = _kept(view, options)
    integer = [node for node in view.nodes if node.name not in kept and _is_integer(view, node)]
    names = {node.name for node in integer}
    tensors = {tensor for node in integer for tensor in (*_data_inputs(view, node), result_of(view, node))}
    scale_of: dict[str, str] = {}
    for node in integer:
        if node.op_type in _KEEP_SCALE:
            scale_of[result_of(view, node)] = scale_of.get(node.input[0], node.input[0])
    points = []
    for tensor in (name for name in _in_order(view) if name in tensors and name not in view.outputs):
        readers = tuple((node.name, index) for node, index in view.readers[tensor])
        readers = tuple(reader for reader in readers if reader[0] not in kept)
        points.append(Point(tensor, readers, scale_of.get(tensor, tensor)))
    layers = tuple(layer.name for layer in view.layers if layer.name in names)
    return Placement(tuple(points), layers, tuple(node.name for node in view.additions if node.name in names))


def observed_of(model: onnx.ModelProto) -> tuple[str, ...]:
    """Every tensor whose statistics some profile needs, in the graph's order."""
    for_cpu = cpu_placement_of(with_padding_as_convolution(model))  # as that profile prepares it
    needed = {*placement_of(model).observed, *cpu_placement_of(model).observed, *for_cpu.observed}
    for addition in GraphView(model).additions:
        needed.update(addition.input)  # a placement that keeps layers float may lose the pair whose scale it shared
    return tuple(tensor for tensor in _in_order(GraphView(model)) if tensor in needed)


def left_float_in(view: GraphView) -> dict[str, str]:
    """Layers no pair is placed at, whatever is asked for: name -> the reason."""
    found = {}
    for node in view.nodes:
        if node.op_type not in WEIGHTED:
            continue
        stored = view.constants.get(node.input[1])
        if node.op_type not in LAYERS:
            found[node.name] = node.op_type
        elif stored is None:
            found[node.name] = f"{node.op_type} with computed weights"
        elif len(stored.dims) != (_IMAGE_WEIGHT if node.op_type == "Conv" else _MATRIX):
            found[node.name] = f"{len(stored.dims) - 2}-dimensional Conv"
    return found


def add_skip(readers: dict[str, list[Read]], view: GraphView, block: Block) -> str:
    """Lets the addition of `block` read its skip quantized; the tensor whose values decide the scale.

    What moves the values of a tensor that has a pair reads that pair. `readers`: tensor -> who reads its pair.
    """
    first, source = None, block.skip
    while view.op_of(source) in MOVERS:
        first = view.producers[source]
        source = first.input[0]
    if first is not None and source in readers:
        readers[source].append((first.name, 0))
    else:
        source = block.skip
    readers.setdefault(block.skip, []).append((block.addition.name, block.skip_index))
    return source


def add_pools(readers: dict[str, list[Read]], view: GraphView, *, int8: set[str], kept: Iterable[str] = ()) -> None:
    """Lets average pools read a pair, except those in `kept`: INT8 reads the average, and makes what is averaged.

    `readers`: tensor -> who reads its pair; `int8`: the layers, and the additions behind them, that do so in INT8.
    A tensor that something reads in float gets none: it is written in float, and the pair would be a kernel more.
    """
    quantized = {reader for who in readers.values() for reader in who}
    for pool in reversed(view.nodes):  # what is behind a pool decides first
        if not is_average(view, pool) or pool.name in kept:
            continue
        source, read = str(pool.input[0]), (pool.name, 0)
        is_made = source in readers or _is_made_by(view, source, int8)
        is_read = is_read_by(view, str(pool.output[0]), quantized) and is_read_by(view, source, {*quantized, read})
        if is_made and is_read:
            readers.setdefault(source, []).append(read)
            quantized.add(read)


def is_average(view: GraphView, node: onnx.NodeProto) -> bool:
    """Whether it averages over height and width, in whichever form."""
    if node.op_type != "ReduceMean":
        return node.op_type in _AVERAGES
    stored = view.value(node.input[1]) if len(node.input) > 1 else None
    axes = attribute(node, "axes", list[int]()) if stored is None else stored.tolist()
    return sorted(axes) in ([2, 3], [-2, -1])


def is_read_by(view: GraphView, tensor: str, reads: Collection[Read]) -> bool:
    """Whether nothing reads `tensor` but the `reads`, perhaps behind what commutes with a pair."""
    if tensor in view.outputs or not view.readers[tensor]:
        return False
    return all(
        (node.name, index) in reads or (node.op_type in COMMUTING and is_read_by(view, str(node.output[0]), reads))
        for node, index in view.readers[tensor]
    )


def _is_made_by(view: GraphView, tensor: str, names: Collection[str]) -> bool:
    """Whether the nearest layer or residual addition on the way back from `tensor` is one of `names`."""
    ends, node = {block.addition.name for block in fusions_in(view)}, view.producers.get(tensor)
    while node is not None and node.op_type not in WEIGHTED and node.name not in ends and node.input:
        node = view.producers.get(view.passed_on(node))
    return node is not None and node.name in names


def _kept(view: GraphView, options: Options) -> set[str]:
    """Names of the nodes that stay float; raises InputError for a layer that is written as no rule knows it."""
    for node in view.nodes:
        if node.op_type == "Gemm" and node.input[1] in view.constants and not attribute(node, "transB", 0):
            raise InputError(f"Gemm node {node.name!r} has transB = 0; export the checkpoint again")
    kept = nodes_named(view, options.keep) | left_float_in(view).keys()
    if view.layers and not options.stem:
        kept.add(view.layers[0].name)
    if not options.head:
        kept.update(layer.name for layer in view.layers if layer.output[0] in view.outputs)
    return kept


def _is_integer(view: GraphView, node: onnx.NodeProto) -> bool:
    if node.op_type not in _INTEGER:
        return False
    if node.op_type in LAYERS:
        return True
    readers = [reader.op_type for reader, _ in view.readers[result_of(view, node)]]
    return all(op in _INTEGER | _ACTIVATIONS for op in readers) and len(_data_inputs(view, node)) > 0


def _data_inputs(view: GraphView, node: onnx.NodeProto) -> list[str]:
    inputs = node.input if node.op_type == "Add" else node.input[:1]
    return [tensor for tensor in inputs if tensor not in view.constants]


def result_of(view: GraphView, node: onnx.NodeProto) -> str:
    """The node's output, or that of the activation which alone reads it."""
    readers = view.readers[node.output[0]]
    if len(readers) == 1 and readers[0][0].op_type in _ACTIVATIONS and node.output[0] not in view.outputs:
        return str(readers[0][0].output[0])
    return str(node.output[0])


def _in_order(view: GraphView) -> list[str]:
    return [*view.inputs, *(output for node in view.nodes for output in node.output)]


def with_classifier_first(model: onnx.ModelProto, most_macs: float, kept: Collection[str] = ()) -> onnx.ModelProto:
    """A copy in which the first Gemm that makes an output from an average over all positions stands in front of it.

    The convolution takes name and weights of the Gemm. Where that adds more than `most_macs` an image, where something
    else reads the average and where the Gemm is `kept`, all stays as it is.
    """
    draft, shapes = Draft(model), shapes_in(model)
    for gemm in [node for node in draft.nodes if node.op_type == "Gemm" and node.name not in kept]:
        chain, weight = _average_before(draft, gemm), draft.value(gemm.input[1])
        is_last = gemm.output[0] in draft.outputs and attribute(gemm, "transB", 0)
        if not (is_last and chain) or weight is None or len(draft.readers[gemm.input[1]]) > 1:
            continue
        pool, flatten = chain
        source, scores, output = pool.input[0], draft.free(f"{gemm.name}.scores"), gemm.output[0]
        if not 0 < (math.prod(shapes.get(source, (0,))[2:]) - 1) * weight.size <= most_macs:
            continue
        draft.store(gemm.input[1], weight.reshape(*weight.shape, 1, 1))
        convolution = helper.make_node("Conv", [source, *gemm.input[1:]], [scores], name=gemm.name, kernel_shape=[1, 1])
        places = [draft.nodes.index(node) for node in (pool, flatten, gemm)]
        pool.input[0], flatten.output[0] = scores, output
        for place, node in zip(places, (convolution, pool, flatten), strict=True):
            draft.nodes[place] = node
        return draft.finish()
    return model


def _average_before(draft: Draft, gemm: onnx.NodeProto) -> tuple[onnx.NodeProto, ...]:
    """(pool, Flatten) that feed nothing but `gemm`, with averages over height and width; empty where they do not."""
    producers, readers = draft.producers, draft.readers
    flatten = producers.get(gemm.input[0], gemm)
    pool = producers.get(flatten.input[0], flatten)
    is_average = flatten.op_type == "Flatten" and attribute(flatten, "axis", 1) == 1 and pool.op_type == _WHOLE
    made = [node.output[0] for node in (pool, flatten)]
    is_alone = draft.outputs.isdisjoint(made) and all(len(readers[name]) == 1 for name in made if is_average)
    return (pool, flatten) if is_average and is_alone else ()


def with_padding_as_convolution(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with the chains of Slice and Pad on (N, C, H, W) tensors that a 1x1 convolution can replace, replaced.

    The convolution takes name and output of the Pad.
    """
    draft, view, shapes = Draft(model), GraphView(model), shapes_in(model)
    for pad in [node for node in draft.nodes if node.op_type == "Pad"]:
        chain = _chain(view, pad)
        source = chain[0].input[0]
        strides, front, total = _strides(view, chain[:-1]), *_channel_padding(view, pad)
        if len(shapes.get(source, ())) == _RANK and strides and total and shapes[source][_CHANNELS]:
            channels = shapes[source][_CHANNELS]
            kernel = np.zeros((channels + total, channels, 1, 1), np.float32)
            kernel[front + np.arange(channels), np.arange(channels)] = 1
            weight = draft.store(f"{pad.name}.weight", kernel)
            convolution = helper.make_node(
                "Conv", [source, weight], [pad.output[0]], name=pad.name, kernel_shape=[1, 1], strides=strides
            )
            pad.CopyFrom(convolution)
    return draft.finish()


def _chain(view: GraphView, pad: onnx.NodeProto) -> list[onnx.NodeProto]:
    """The Slices before `pad` that nothing else reads, and `pad`."""
    chain = [pad]
    while view.op_of(chain[0].input[0]) == "Slice" and len(view.readers[chain[0].input[0]]) == 1:
        chain.insert(0, view.producers[chain[0].input[0]])
    return chain


def _strides(view: GraphView, slices: list[onnx.NodeProto]) -> list[int]:
    """Steps along height and width; empty if the slices do more than skip pixels."""
    strides = {2: 1, 3: 1}
    for node in slices:
        starts, ends, axes, steps = ([view.value(name) for name in node.input[1:5]] + [None] * 4)[:4]
        if starts is None or ends is None or axes is None or steps is None:
            return []
        if np.any(starts) or np.any(ends < np.iinfo(np.int32).max) or not set(axes.tolist()) <= set(strides):
            return []
        for axis, step in zip(axes.tolist(), steps.tolist(), strict=True):
            strides[axis] *= step
    return list(strides.values())


def _channel_padding(view: GraphView, pad: onnx.NodeProto) -> tuple[int, int]:
    """(channels put before, channels added); added is 0 if `pad` does anything but add channels of zeros."""
    amounts, value = ([view.value(name) for name in pad.input[1:3]] + [None] * 2)[:2]
    modes = [entry.s for entry in pad.attribute if entry.name == "mode"]
    if amounts is None or len(amounts) != 2 * _RANK or modes not in ([], [b"constant"]) or np.any(value or 0):
        return 0, 0
    front, back = int(amounts[_CHANNELS]), int(amounts[_RANK + _CHANNELS])
    return (front, front + back) if front + back == int(np.abs(amounts).sum()) else (0, 0)
