from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from edgeres.core.errors import InputError
from edgeres.graph.draft import Draft


def node(op: str, inputs: list[str], *outputs: str, name: str = "", **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, inputs, list(outputs), name=name, **attributes)


def model_of(*nodes: onnx.NodeProto, outputs: str = "z") -> onnx.ModelProto:
    values = {name: helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in ("x", *outputs)}
    stored = [helper.make_tensor("one", onnx.TensorProto.FLOAT, [2], [1.0, 1.0])]
    graph = helper.make_graph(list(nodes), "g", [values["x"]], [values[name] for name in outputs], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_what_constants_make_is_a_constant_unless_the_graph_puts_it_out():
    nodes = [
        node("Constant", [], "two", value_floats=[2.0, 2.0]),
        node("Add", ["one", "two"], "three"),
        node("Mul", ["three", "three"], "y"),
        node("Add", ["x", "three"], "z"),
    ]
    draft = Draft(model_of(*nodes, outputs="yz"))
    draft.fold_constants()
    assert [node.op_type for node in draft.nodes] == ["Mul", "Add"]
    assert draft.value("three").tolist() == [3, 3]
    assert {tensor.name for tensor in draft.finish().graph.initializer} == {"three"}


def test_chance_is_no_constant():
    draft = Draft(model_of(node("RandomNormal", [], "r", shape=[2]), node("Add", ["x", "r"], "z")))
    draft.fold_constants()
    assert len(draft.nodes) == 2


def test_every_node_has_a_name_and_those_that_are_there_stay():
    nodes = [node("Relu", ["x"], "y"), node("Relu", ["y"], "u", name="y"), node("Relu", ["u"], "z", name="y")]
    assert [node.name for node in Draft(model_of(*nodes)).nodes] == ["y.2", "y", "y.3"]


def test_an_output_of_the_graph_keeps_its_name_when_its_tensor_is_replaced():
    draft = Draft(model_of(node("Relu", ["x"], "y"), node("Identity", ["y"], "z")))
    draft.remove(draft.nodes[1:])
    assert draft.replace_tensor("z", "y") == "z"
    made = draft.finish()
    assert [(node.op_type, *node.output) for node in made.graph.node] == [("Relu", "z")]
    onnx.checker.check_model(made, full_check=True)


def test_an_output_that_another_output_replaces_is_a_copy_of_it():
    draft = Draft(model_of(node("Relu", ["x"], "y"), node("Identity", ["y"], "z"), outputs="yz"))
    draft.remove(draft.nodes[1:])
    assert draft.replace_tensor("z", "y") == "y"
    made = draft.finish()
    assert [(node.op_type, *node.input, *node.output) for node in made.graph.node] == [
        ("Relu", "x", "y"),
        ("Identity", "y", "z"),
    ]


def test_who_else_reads_what_takes_an_outputs_name_reads_it_by_that_name():
    nodes = [node("Relu", ["x"], "h"), node("Identity", ["h"], "y"), node("Add", ["one", "h"], "z")]
    draft = Draft(model_of(*nodes, outputs="yz"))
    draft.remove(draft.nodes[1:2])
    assert draft.replace_tensor("y", "h") == "y"
    assert [(node.op_type, *node.input, *node.output) for node in draft.finish().graph.node] == [
        ("Relu", "x", "y"),
        ("Add", "one", "y", "z"),
    ]


def test_a_graph_input_that_becomes_an_output_keeps_its_name():
    draft = Draft(model_of(node("Identity", ["x"], "z")))
    draft.remove(draft.nodes)
    assert draft.replace_tensor("z", "x") == "x"
    made = draft.finish()
    assert [(node.op_type, *node.input, *node.output) for node in made.graph.node] == [("Identity", "x", "z")]
    assert [value.name for value in made.graph.input] == ["x"]


@pytest.mark.parametrize(
    ("name", "free"),
    [("new", "new"), ("one", "one.2"), ("x", "x.2"), ("out", "out.2"), ("h", "h.3"), ("away", "away.2")],
    ids=["of nothing", "of a constant", "of an input", "of what is made", "of two", "of what another graph makes"],
)
def test_a_free_name_is_that_of_nothing_in_the_graph(name, free):
    nodes = [node("RandomNormal", [], "h", shape=[2]), node("Neg", ["h"], "h.2"), node("Neg", ["away"], "out")]
    assert Draft(model_of(*nodes, outputs="h")).free(name) == free


def test_what_nothing_reads_is_left_out_and_the_model_given_stays():
    model = model_of(node("Relu", ["x"], "z"), node("Add", ["x", "one"], "y"))
    before = model.SerializeToString()
    draft = Draft(model)
    draft.store("more", np.zeros(2, np.float32))
    made = draft.finish()
    assert [node.op_type for node in made.graph.node] == ["Relu"]
    assert list(made.graph.initializer) == []
    assert model.SerializeToString() == before


def test_a_graph_with_branches_is_refused():
    body = helper.make_graph([], "body", [], [])
    with pytest.raises(InputError, match="If node 'if' holds a graph of its own; export it without branches"):
        Draft(model_of(node("If", ["x"], "z", name="if", then_branch=body, else_branch=body)))
