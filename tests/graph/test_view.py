from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from edgeres.graph.blocks import modules_in, nodes_named, skips_in
from edgeres.graph.view import GraphView, weight_axis

FILES = sorted(Path(onnx.__file__).parent.rglob("backend/test/data/**/*.onnx"))


def test_every_graph_of_onnx_itself_is_understood():
    assert len(FILES) > 100
    for path in FILES:
        view = GraphView(onnx.load(path))
        nodes_named(view, [*modules_in(view), *skips_in(view)])
        for node in view.nodes:
            assert all(view.producers[tensor] is node for tensor in node.output if tensor)
            assert all((node, index) in view.readers[tensor] for index, tensor in enumerate(node.input))
            view.layer_before(node.output[0] if node.output else "")
            view.weight_pair(node)


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("value", helper.make_tensor("t", onnx.TensorProto.FLOAT, [2], [1.0, 2.0])),
        ("value_floats", [1.0, 2.0]),
        ("value_ints", [1, 2]),
    ],
)
def test_a_constant_is_one_in_a_node_too_and_behind_an_identity(attribute, value):
    nodes = [
        helper.make_node("Constant", [], ["c"], **{attribute: value}),
        helper.make_node("Identity", ["c"], ["d"]),
        helper.make_node("Add", ["x", "d"], ["y"]),
    ]
    view = view_of(nodes)
    assert view.additions == []
    np.testing.assert_array_equal(view.value("d"), [1, 2])
    assert view.value("x") is None


def test_an_input_with_a_stored_value_need_not_be_fed():
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"])]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [helper.make_tensor_value_info(name, 1, None) for name in "xw"], [], [weight()])
    )
    assert GraphView(model).inputs == ["x"]


def test_a_body_sees_the_constants_around_it():
    body = helper.make_graph([helper.make_node("Add", ["x", "w"], ["z"])], "body", [], [])
    model = helper.make_model(helper.make_graph([], "g", [], [], [weight()]))
    outer = GraphView(model)
    assert GraphView(model, body, outer).constants.keys() == {"w"}


def test_what_a_tensor_is_made_from_ends_where_it_is_told_and_goes_by_what_is_read_instead():
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Split", ["a"], ["b", "c"], axis=0, num_outputs=2),
        helper.make_node("Clip", ["b", "", "top"], ["d"]),
        helper.make_node("Dropout", ["x"], ["e", ""]),
        helper.make_node("Add", ["d", "e"], ["y"]),
    ]
    view = GraphView(onnx.ModelProto(graph=onnx.GraphProto(node=nodes)))
    assert view.made_from(["y"]) == {"y", "d", "e", "b", "c", "top", "a", "x"}
    assert view.made_from(["y"], {"y": "d"}) == {"d", "b", "c", "top", "a", "x"}
    assert view.made_from(["d"], until={"b"}) == {"d", "top"}
    assert "" not in view.made_from(["d", "e"])


def test_the_layer_before_a_tensor_is_looked_for_up_to_an_addition():
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Add", ["b", "x"], ["c"]),
        helper.make_node("Relu", ["c"], ["d"]),
    ]
    view = view_of(nodes)
    found = {tensor: view.layer_before(tensor) for tensor in "abcdx"}
    assert found == {"a": view.nodes[0], "b": view.nodes[0], "c": None, "d": None, "x": None}


@pytest.mark.parametrize(
    ("op", "attributes", "ndim", "axis"),
    [
        ("Conv", {}, 4, 0),
        ("ConvTranspose", {}, 4, 1),
        ("Gemm", {}, 2, 1),
        ("Gemm", {"transB": 1}, 2, 0),
        ("MatMul", {}, 2, 1),
        ("MatMul", {}, 3, 2),
    ],
)
def test_output_channels_are_counted_along_the_axis_of_the_operator(op, attributes, ndim, axis):
    assert weight_axis(helper.make_node(op, ["x", "w"], ["y"], **attributes), ndim) == axis


def weight() -> onnx.TensorProto:
    return helper.make_tensor("w", onnx.TensorProto.FLOAT, [1, 1, 1, 1], [1.0])


def view_of(nodes: list[onnx.NodeProto]) -> GraphView:
    return GraphView(helper.make_model(helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", 1, [2])], [])))
