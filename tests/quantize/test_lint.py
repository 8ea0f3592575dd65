from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgeres.quantize.insert import with_pairs
from edgeres.quantize.lint import lint
from edgeres.quantize.placement import placement_of

Graph = onnx.GraphProto


def store(graph: Graph, name: str, value: np.ndarray) -> None:
    """Adds or replaces an initializer."""
    tensor = next((t for t in graph.initializer if t.name == name), None)
    (graph.initializer.add() if tensor is None else tensor).CopyFrom(numpy_helper.from_array(value, name))


def find(graph: Graph, name: str) -> onnx.NodeProto:
    return next(node for node in graph.node if node.name == name)


def shifted(graph: Graph) -> None:
    store(graph, "relu.zero_point", np.array(5, np.int8))


def unsigned(graph: Graph) -> None:
    store(graph, "relu.zero_point", np.array(0, np.uint8))


def without_zero_point(graph: Graph) -> None:
    find(graph, "relu.quantized").input.pop()


def negative(graph: Graph) -> None:
    store(graph, "relu.scale", np.array(-1, np.float32))


def per_channel_activation(graph: Graph) -> None:
    store(graph, "relu.scale", np.ones(16, np.float32))


def per_tensor_weight(graph: Graph) -> None:
    store(graph, "conv1.weight.scale", np.array(1, np.float32))


def other_axis(graph: Graph) -> None:
    find(graph, "conv1.weight.dequantized").attribute[0].i = 1


def float_input(graph: Graph) -> None:
    find(graph, "layer1.0.conv2").input[0] = "layer1.0.relu"


def quantized_bias(graph: Graph) -> None:
    store(graph, "b", np.zeros(16, np.int32))
    store(graph, "s", np.ones(16, np.float32))
    store(graph, "z", np.zeros(16, np.int32))
    graph.node.insert(0, helper.make_node("DequantizeLinear", ["b", "s", "z"], ["bias.float"], name="bias", axis=0))
    find(graph, "conv1").input[2] = "bias.float"


def float_skip(graph: Graph) -> None:
    find(graph, "layer1.0.add").input[0] = "relu"


def both_inputs(graph: Graph) -> None:
    pair(graph, "layer1.0.conv2", "layer1.0.add", 1)


def before_relu(graph: Graph) -> None:
    pair(graph, "layer1.0.conv1", "layer1.0.relu", 0)


def integer_convolution(graph: Graph) -> None:
    graph.node.add(op_type="QLinearConv", name="q", input=["x"], output=["y"])


def pair(graph: Graph, tensor: str, reader: str, index: int) -> None:
    parameters = ["relu.scale", "relu.zero_point"]
    position = [node.name for node in graph.node].index(reader)
    graph.node.insert(position, helper.make_node("DequantizeLinear", ["q", *parameters], ["dq"], name="dq"))
    graph.node.insert(position, helper.make_node("QuantizeLinear", [tensor, *parameters], ["q"], name="q"))
    find(graph, reader).input[index] = "dq"


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (shifted, "zero-point: relu.quantized: not zero"),
        (unsigned, "zero-point: relu.quantized: UINT8, must be INT8"),
        (without_zero_point, "zero-point: relu.quantized: missing"),
        (negative, "scale: relu.quantized: must be positive and finite"),
        (per_channel_activation, "scale: relu.quantized: an activation has 16 scales, must have one"),
        (per_tensor_weight, "scale: conv1.weight.dequantized: 1 scales for 16 output channels"),
        (other_axis, "scale: conv1.weight.dequantized: per-channel weights must have axis 0"),
        (float_input, "half: layer1.0.conv2: only its weights quantized"),
        (quantized_bias, "bias: conv1: must stay float"),
        (float_skip, "skip: layer1.0.add: 0 inputs quantized, must be one"),
        (both_inputs, "skip: layer1.0.add: 2 inputs quantized, must be one"),
        (before_relu, "split: q: stands between layer1.0.conv1 and layer1.0.relu"),
        (integer_convolution, "operator: q: QLinearConv is not understood by TensorRT"),
    ],
)
def test_every_broken_rule_is_named(damage: Callable[[Graph], None], expected, onnx_of):
    source = onnx_of("resnet8").proto
    placement = placement_of(source)
    model = with_pairs(source, placement, dict.fromkeys(placement.observed, 1.0))
    assert lint(model) == ()
    damage(model.graph)
    assert expected in lint(model)
