"""Which module computes in what is read from the graph."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeres.core.artifacts import OnnxModel
from edgeres.pipeline.show import drawing_of
from edgeres.pipeline.show_model import OUTSIDE, as_label, module_precisions


def weight(name, dtype=np.float32):
    return numpy_helper.from_array(np.zeros((2, 2, 1, 1), dtype), name)


def conv(name, x, w, y):
    return helper.make_node("Conv", [x, w], [y], name=name)


def dequantized(tensor):
    """Nodes that make `tensor`.dq from a float tensor."""
    return [
        helper.make_node("QuantizeLinear", [tensor, "s", "z"], [f"{tensor}.q"], name=f"{tensor}.Q"),
        helper.make_node("DequantizeLinear", [f"{tensor}.q", "s", "z"], [f"{tensor}.dq"], name=f"{tensor}.DQ"),
    ]


@pytest.fixture
def mixed(tmp_path):
    """Stem in FP32, layer1.0 in INT8, layer1.1 half INT8, half float with INT8 weights."""
    scale = [numpy_helper.from_array(np.float32(1), "s"), numpy_helper.from_array(np.int8(0), "z")]
    names = ("stem.w", "a.w", "b.w", "c.w", "d.w")
    nodes = [
        conv("stem.conv", "images", "stem.w", "x"),
        *dequantized("x"),
        *(node for name in names[1:] for node in dequantized(name)),
        conv("layer1.0.conv1", "x.dq", "a.w.dq", "a"),
        *dequantized("a"),
        conv("layer1.0.conv2", "a.dq", "b.w.dq", "b"),
        conv("layer1.1.conv1", "x.dq", "c.w.dq", "c"),
        conv("layer1.1.conv2", "c", "d.w.dq", "d"),
    ]
    shape = ("n", 2, 4, 4)
    graph = helper.make_graph(
        nodes,
        "mixed",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("b", "d")],
        [*map(weight, names), *scale],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "mixed.onnx")
    return OnnxModel(tmp_path / "mixed.onnx")


def test_layers_are_int8_where_both_inputs_are_dequantized(mixed):
    found = module_precisions(mixed)
    assert found == {OUTSIDE: ("fp32",), "layer1.0": ("int8", "int8"), "layer1.1": ("int8", "int8 weights")}


def test_half_weights_are_fp16(tmp_path):
    graph = helper.make_graph(
        [conv("layer1.0.conv1", "images", "w", "y")],
        "half",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT16, (1, 2, 4, 4))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, (1, 2, 4, 4))],
        [weight("w", np.float16)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "half.onnx")
    assert module_precisions(OnnxModel(tmp_path / "half.onnx")) == {"layer1.0": ("fp16",)}


def test_labels_count_what_differs():
    assert as_label(("int8", "int8")) == "int8"
    assert as_label(("int8", "fp32")) == "int8 1 of 2, fp32 1 of 2"
    assert as_label(()) == ""


def test_the_drawing_has_a_box_a_module_and_a_line_a_stage():
    modules = [("layer1.0", "int8"), ("layer1.1", "dropped"), ("layer2.0", "int8 1 of 2, fp32 1 of 2")]
    assert drawing_of(modules) == ["layer1  [INT8][----]", "layer2  [MIX ]"]


def test_long_stages_are_continued_within_the_terminal():
    lines = drawing_of([(f"layer3.{index}", "fp32") for index in range(36)])
    assert all(len(line) <= 80 for line in lines)
    assert "".join(lines).count("[FP32]") == 36
    assert [line[:6] for line in lines] == ["layer3", *[" " * 6] * (len(lines) - 1)]
