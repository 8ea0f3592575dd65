"""Shortcut option A as a convolution: every second pixel, new channels of zeros, by a 1x1 kernel of ones and zeros.

x -> Slice ... -> Pad -> y   becomes   x -> Conv(1x1, stride 2, W[front + i, i] = 1) -> y

It computes the same numbers. A CPU has an integer convolution but no integer Pad, which would cost a way to float and
back in each such module.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from edgeres.graph.draft import Draft
from edgeres.graph.normal import shapes_in
from edgeres.graph.view import GraphView

_RANK = 4
_CHANNELS = 1


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
