"""Files that are valid but not what edgeres writes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeres.quantize.lint import is_quantized, lint

FLOAT = TensorProto.FLOAT


def model(nodes, stored=None, *, opset=17, shape=(1, 4, 8, 8), domains=(), functions=()):
    """A graph x -> y; `stored` are its initializers."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", FLOAT, shape)],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (stored or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, functions=list(functions), ir_version=10)


def constant(name, value):
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(value), name))


def pair(*parameters, op="", domain=""):
    return [
        helper.make_node("QuantizeLinear", ["x", *parameters], ["q"], domain=domain),
        helper.make_node("DequantizeLinear", ["q", *parameters], ["y"], domain=domain),
    ]


SCALE, ZERO = np.float32(0.1), np.int8(0)
WEIGHT = np.ones((8, 4, 1, 1), np.float32)
ROWS = {"s": np.ones(8, np.float32), "z": np.zeros(8, np.int8)}


def rules(found):
    return [(finding.rule, finding.node) for finding in found]


def test_nodes_without_names_are_named_by_operator_and_output():
    found = lint(model(pair("s", "z"), {"s": SCALE, "z": np.int8(3)}))
    assert rules(found) == [("zero-point", "QuantizeLinear -> q")]


def test_constant_nodes_are_read_like_initializers():
    nodes = [constant("s", SCALE), helper.make_node("Constant", [], ["f"], value_float=0.5), constant("z", ZERO)]
    assert lint(model([*nodes, *pair("s", "z")])) == ()
    assert lint(model([*nodes, *pair("f", "z")])) == ()


def test_a_float_weight_with_both_nodes_is_a_weight():
    nodes = [
        *pair("s0", "z0")[:1],
        helper.make_node("DequantizeLinear", ["q", "s0", "z0"], ["xd"]),
        helper.make_node("QuantizeLinear", ["w", "s", "z"], ["wq"], axis=0),
        helper.make_node("DequantizeLinear", ["wq", "s", "z"], ["wd"], axis=0),
        helper.make_node("Conv", ["xd", "wd"], ["y"]),
    ]
    stored = {"w": WEIGHT, "s0": SCALE, "z0": ZERO, **ROWS}
    assert lint(model(nodes, stored)) == ()
    stored["s"] = np.ones(3, np.float32)
    assert rules(lint(model(nodes, stored))) == [("scale", "QuantizeLinear -> wq")]


def test_scales_along_the_input_channels_are_found():
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wd"], axis=1),
        helper.make_node("Conv", ["x", "wd"], ["y"]),
    ]
    stored = {"w": np.ones((4, 4, 1, 1), np.int8), "s": np.ones(4, np.float32), "z": np.zeros(4, np.int8)}
    found = lint(model(nodes, stored))
    assert ("scale", "DequantizeLinear -> wd") in rules(found)
    assert ("half", "Conv -> y") in rules(found)


def test_an_omitted_zero_point_is_uint8_unless_the_type_says_int8():
    nodes = pair("s")
    assert rules(lint(model(nodes, {"s": SCALE}))) == [("zero-point", "QuantizeLinear -> q")]
    nodes[0].attribute.append(helper.make_attribute("output_dtype", TensorProto.INT8))
    assert lint(model(nodes, {"s": SCALE}, opset=21)) == ()


def test_a_float_graph_has_nothing_to_check():
    graph = model([helper.make_node("Relu", ["x"], ["y"])], opset=9)
    assert not is_quantized(graph)
    assert lint(graph) == ()


def test_four_bit_weights_in_blocks_are_a_note_and_no_half_quantized_layer():
    weight = helper.make_tensor("w", TensorProto.INT4, (4, 8), [1] * 32)
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["wd"], axis=0, block_size=2),
        helper.make_node("MatMul", ["x", "wd"], ["y"]),
    ]
    graph = model(nodes, {"s": np.ones((2, 8), np.float32)}, opset=21, shape=(1, 4))
    graph.graph.initializer.append(weight)
    assert [finding.severity for finding in lint(graph)] == ["note"]
    old = lint(graph, target="6.0")
    assert "INT4 is not known to TensorRT 8.6.2 (JetPack 6.0)" in " ".join(map(str, old))


def test_the_bodies_of_an_if_are_checked_too():
    branch = helper.make_graph(pair("s", "z"), "branch", [], [helper.make_tensor_value_info("y", FLOAT, None)])
    nodes = [
        constant("s", SCALE),
        constant("z", np.int8(7)),
        constant("c", np.array(True)),
        helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch),
    ]
    assert [finding.rule for finding in lint(model(nodes))] == ["zero-point", "zero-point"]


def test_contributed_operators_are_noted():
    graph = model(pair("s", "z", domain="com.microsoft"), {"s": SCALE, "z": ZERO}, domains=("com.microsoft",))
    assert {(finding.rule, finding.severity) for finding in lint(graph)} == {("operator", "note")}


@pytest.mark.parametrize("op", ["DynamicQuantizeLinear", "ConvInteger", "MatMulInteger", "QLinearMatMul"])
def test_operator_format_is_refused(op):
    graph = model([helper.make_node(op, ["x"], ["y"])])
    assert [(finding.rule, finding.fixable) for finding in lint(graph)] == [("operator", False)]


def test_an_addition_without_common_origin_is_not_residual():
    nodes = [*pair("s", "z"), helper.make_node("Add", ["y", "other"], ["sum"])]
    graph = model(nodes, {"s": SCALE, "z": ZERO})
    graph.graph.input.append(helper.make_tensor_value_info("other", FLOAT, None))
    assert lint(graph) == ()


def test_a_model_without_nodes_is_clean():
    assert lint(onnx.ModelProto()) == ()


@pytest.mark.parametrize(
    "between",
    [
        helper.make_node("MaxPool", ["d"], ["m"], kernel_shape=[2, 2]),
        helper.make_node("Transpose", ["d"], ["m"], perm=[0, 1, 3, 2]),
        helper.make_node("Relu", ["d"], ["m"]),
    ],
    ids=lambda node: node.op_type,
)
def test_a_layer_is_half_quantized_only_where_tensorrt_cannot_move_the_pair_to_it(between):
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s0", "z0"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s0", "z0"], ["d"]),
        between,
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wd"], axis=0),
        helper.make_node("Conv", ["m", "wd"], ["y"]),
    ]
    found = lint(model(nodes, {"w": np.ones((8, 4, 1, 1), np.int8), "s0": SCALE, "z0": ZERO, **ROWS}))
    assert rules(found) == ([("half", "Conv -> y")] if between.op_type == "Relu" else [])


def test_a_flattened_pair_is_the_input_of_the_fully_connected_layer():
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s0", "z0"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s0", "z0"], ["d"]),
        helper.make_node("Flatten", ["d"], ["f"]),
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wd"], axis=0),
        helper.make_node("Gemm", ["f", "wd"], ["y"], transB=1),
    ]
    assert lint(model(nodes, {"w": np.ones((8, 256), np.int8), "s0": SCALE, "z0": ZERO, **ROWS})) == ()


def test_of_many_scales_the_one_that_is_wrong_is_shown():
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wd"], axis=0),
        helper.make_node("Conv", ["x", "wd"], ["y"]),
    ]
    scales = np.array([1, 1, 0, 1, 1, 1, 1, 1], np.float32)
    found = lint(model(nodes, {"w": np.ones((8, 4, 1, 1), np.int8), **ROWS, "s": scales}))
    assert "must be positive and finite (0)" in next(one for one in found if one.rule == "scale").reason
