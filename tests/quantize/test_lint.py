from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgeres.core.errors import InputError
from edgeres.quantize.decision import Decision
from edgeres.quantize.insert import with_pairs
from edgeres.quantize.lint import lint, problems
from edgeres.quantize.placement import Options, placement_of

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


def float_pool(graph: Graph) -> None:
    find(graph, "avgpool").input[0] = "layer3.0.relu_1"
    for name in ("quantized", "dequantized"):
        graph.node.remove(find(graph, f"layer3.0.relu_1.{name}"))


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


def unfolded(graph: Graph) -> None:
    for name in ("gain", "beta", "mean", "variance"):
        store(graph, name, np.ones(16, np.float32))
    position = [node.name for node in graph.node].index("relu")
    inputs = ["conv1", "gain", "beta", "mean", "variance"]
    graph.node.insert(position, helper.make_node("BatchNormalization", inputs, ["bn1"], name="bn1"))
    find(graph, "relu").input[0] = "bn1"


def second_scale(graph: Graph) -> None:
    pair(graph, "relu", "layer1.0.add", 0)
    store(graph, "other", np.array(0.5, np.float32))
    for name in ("q", "dq"):
        find(graph, name).input[1] = "other"


def sixteen_bits(graph: Graph) -> None:
    store(graph, "relu.zero_point", np.array(0, np.int16))


def computed_scale(graph: Graph) -> None:
    store(graph, "two", np.array(2, np.float32))
    graph.node.insert(0, helper.make_node("Mul", ["two", "two"], ["computed"], name="mul"))
    find(graph, "relu.quantized").input[1] = "computed"


def half_scale(graph: Graph) -> None:
    store(graph, "relu.scale", np.array(1, np.float16))


def blocks(graph: Graph) -> None:
    find(graph, "conv1.weight.dequantized").attribute.append(helper.make_attribute("block_size", 2))


def broken_bias(graph: Graph) -> None:
    store(graph, "fc.bias", np.full(10, np.nan, np.float32))


def infinite_bias(graph: Graph) -> None:
    store(graph, "conv1.bias", np.full(16, np.inf, np.float32))


@pytest.fixture
def clean(onnx_of) -> onnx.ModelProto:
    source = onnx_of("resnet8").proto
    placement = placement_of(source)
    return with_pairs(source, placement, Decision(dict.fromkeys(placement.observed, 1.0)))


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (shifted, "error: zero-point: relu.quantized: not zero (5)"),
        (unsigned, "error: type: relu.quantized: uint8 with zero point 0 is silently taken for int8"),
        (without_zero_point, "error: zero-point: relu.quantized: missing, which means uint8"),
        (sixteen_bits, "error: type: relu.quantized: INT16 is not known to TensorRT"),
        (broken_bias, "error: number: fc: fc.bias holds NaN or infinity"),
        (infinite_bias, "error: number: conv1: conv1.bias holds NaN or infinity"),
        (negative, "error: scale: relu.quantized: must be positive and finite (-1)"),
        (computed_scale, "error: scale: relu.quantized: computed at run time"),
        (half_scale, "error: opset: relu.quantized: a half-precision scale needs opset 19, the file has 17"),
        (per_channel_activation, "error: scale: relu.quantized: an activation has 16 scales, must have one"),
        (per_tensor_weight, "note: scale: conv1.weight.dequantized: one scale for all output channels"),
        (other_axis, "error: scale: conv1.weight.dequantized: 16 scales for 1 channels of axis 1"),
        (blocks, "error: scale: conv1.weight.dequantized: blocks of int8 weights are not known"),
        (float_input, "speed: half: layer1.0.conv2: only its weights quantized"),
        (quantized_bias, "error: bias: bias: an int32 DequantizeLinear is refused"),
        (float_skip, "speed: skip: layer1.0.add: its skip relu is float"),
        (
            float_pool,
            "speed: pool: avgpool: its input layer3.0.relu_1 is float, layer3.0.add cannot end in INT8 with it",
        ),
        (both_inputs, "speed: skip: layer1.0.add: both inputs quantized"),
        (before_relu, "speed: split: q: stands between layer1.0.conv1 and layer1.0.relu"),
        (unfolded, "speed: batch-norm: bn1: not folded into conv1"),
        (second_scale, "note: two-scales: relu.quantized: relu is quantized 2 times with different scales"),
        (integer_convolution, "error: operator: q: QLinearConv is not understood by TensorRT"),
    ],
)
def test_every_broken_rule_is_named(damage: Callable[[Graph], None], expected, clean):
    assert lint(clean) == ()
    damage(clean.graph)
    assert any(str(finding).startswith(expected) for finding in lint(clean)), [str(f) for f in lint(clean)]


@pytest.mark.parametrize(
    ("arch", "options"),
    [
        ("resnet8", {"shortcut": "B"}),
        ("resnet8", {"ordering": "full-preact"}),
        ("resnet8", {"shortcut": "C"}),
    ],
)
def test_what_edgeres_writes_is_clean(arch, options, onnx_of):
    source = onnx_of(arch, **options).proto
    placement = placement_of(source)
    assert lint(with_pairs(source, placement, Decision(dict.fromkeys(placement.observed, 1.0)))) == ()


def test_a_layer_left_float_on_purpose_is_no_finding(onnx_of):
    source = onnx_of("resnet8").proto
    placement = placement_of(source, Options(stem=False, head=False))
    assert lint(with_pairs(source, placement, Decision(dict.fromkeys(placement.observed, 1.0)))) == ()


@pytest.mark.parametrize("options", [{"head": False}, {"keep": ["layer3.0"]}, {"keep": ["layer3.0.skip"]}])
def test_a_pool_that_averages_for_float_or_after_float_is_no_finding(options, onnx_of):
    source = onnx_of("resnet8").proto
    placement = placement_of(source, Options(**options))
    model = with_pairs(source, placement, Decision(dict.fromkeys(placement.observed, 1.0)))
    assert "avgpool" not in {name for point in placement.points for name, _ in point.readers}
    assert not [finding for finding in lint(model) if finding.rule == "pool"]


def test_a_pool_beside_the_pair_it_could_read_is_repaired_from_the_file(clean):
    pool = find(clean.graph, "avgpool")
    pool.input[0] = "layer3.0.relu_1"
    (finding,) = lint(clean)
    assert (finding.rule, finding.fixable, finding.remedy) == ("pool", True, "let it read the pair that is there")


def test_a_mask_may_be_infinite(clean):
    store(clean.graph, "mask", np.full(1, -np.inf, np.float32))
    clean.graph.node.append(onnx.helper.make_node("Max", [clean.graph.output[0].name, "mask"], ["masked"]))
    clean.graph.output[0].name = "masked"
    assert lint(clean) == ()


def test_problems_are_errors_and_speed_but_not_notes(clean):
    per_tensor_weight(clean.graph)
    assert [finding.severity for finding in lint(clean)] == ["note"]
    assert problems(lint(clean)) == ()
    unsigned(clean.graph)
    assert {finding.severity for finding in problems(lint(clean))} == {"error"}


@pytest.mark.parametrize(("jetpack", "refused"), [("4.6", True), ("5.1", False), ("6.2", False), ("7", False)])
def test_the_opset_is_held_against_the_jetpack(jetpack, refused, clean):
    found = [str(finding) for finding in lint(clean, target=jetpack)]
    assert found == (
        ["error: opset: edgeres: opset 17, TensorRT 8.0.1 (JetPack 4.6) reads up to 13; export at opset 13"]
        if refused
        else []
    )


def test_scales_in_half_precision_are_not_sent_to_an_opset_without_them(clean):
    for tensor in clean.graph.initializer:
        if tensor.name in {node.input[1] for node in clean.graph.node if node.op_type == "QuantizeLinear"}:
            half = numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name)
            tensor.CopyFrom(half)
    clean.opset_import[0].version = 19
    (found,) = [str(one) for one in lint(clean, target="5.1") if one.rule == "opset" and "5.1" in one.reason]
    assert found.endswith("half-precision scales need opset 19; quantize with float scales (--profile tensorrt)")


def test_an_unknown_jetpack_is_named(clean):
    with pytest.raises(InputError, match=r"unknown JetPack release '6\.3'"):
        lint(clean, target="6.3")
