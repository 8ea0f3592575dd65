from __future__ import annotations

from itertools import islice

import pytest
from onnx import TensorProto, helper

from edgeres.graph.blocks import Block, _way_back, blocks_in, modules_in, skips_in
from edgeres.graph.view import GraphView

SIZES = {"w": 1, "w9": 9}


def node(op: str, inputs: list[str], output: str, name: str = "") -> object:
    return helper.make_node(op, inputs, [output], name=name)


def view_of(*nodes: object) -> GraphView:
    stored = [helper.make_tensor(name, TensorProto.FLOAT, [1, size], [1.0] * size) for name, size in SIZES.items()]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "u")]
    return GraphView(helper.make_model(helper.make_graph(list(nodes), "g", inputs, [], stored)))


def block_of(*nodes: object) -> Block:
    (block,) = blocks_in(view_of(*nodes))
    return block


@pytest.mark.parametrize("swapped", [False, True])
def test_the_skip_is_found_on_either_side_of_the_addition(swapped):
    inputs = ["y", "x"] if swapped else ["x", "y"]
    block = block_of(node("Conv", ["x", "w"], "y", "conv"), node("Add", inputs, "z", "add"))
    assert (block.skip, block.branch, block.source, block.output) == ("x", "y", "x", "z")
    assert block.skip_index == int(swapped)
    assert (block.name, block.nodes) == ("add", ("conv", "add"))


@pytest.mark.parametrize("swapped", [False, True])
def test_of_two_single_layers_the_one_with_fewer_weights_is_the_skip(swapped):
    inputs = ["branch", "skip"] if swapped else ["skip", "branch"]
    layers = [node("Conv", ["x", "w9"], "branch"), node("Conv", ["x", "w"], "skip")]
    assert block_of(*layers, node("Add", inputs, "z")).skip == "skip"


def test_of_two_alike_the_first_is_the_skip():
    layers = [node("Conv", ["x", "w"], "a"), node("Conv", ["x", "w"], "b")]
    assert block_of(*layers, node("Add", ["b", "a"], "z")).skip == "b"


@pytest.mark.parametrize("stored", ["integers", "float"])
def test_weights_are_counted_through_their_pairs(stored):
    integers = dict.fromkeys(SIZES) if stored == "integers" else {name: f"{name}.q" for name in SIZES}
    pairs = [node("QuantizeLinear", [name, "s"], made) for name, made in integers.items() if made]
    pairs += [node("DequantizeLinear", [made or name, "s"], f"{name}.dq") for name, made in integers.items()]
    layers = [node("Conv", ["x", "w9.dq"], "branch"), node("Conv", ["x", "w.dq"], "skip")]
    assert block_of(*pairs, *layers, node("Add", ["branch", "skip"], "z")).skip == "skip"


def test_a_module_ends_where_its_own_ways_meet():
    nodes = [
        node("Relu", ["x"], "stem", "stem"),
        node("Conv", ["stem", "w"], "a", "conv"),
        node("Add", ["stem", "a"], "b", "first"),
        node("Relu", ["b"], "c", "relu"),
        node("Conv", ["c", "w"], "d", "conv_1"),
        node("Add", ["d", "c"], "e", "second"),
    ]
    assert modules_in(view_of(*nodes)) == {"first": ("conv", "first"), "second": ("conv_1", "second")}
    assert skips_in(view_of(*nodes)) == {"first.skip": "first", "second.skip": "second"}


def test_the_way_back_through_a_circle_ends():
    nodes = [node("Relu", ["b"], "a"), node("Relu", ["a"], "b"), node("Add", ["a", "x"], "z")]
    view = view_of(*nodes)
    assert [tensor for tensor, _ in islice(_way_back(view, "a"), 9)] == ["a", "b"]
    assert blocks_in(view) == []


def test_a_module_is_called_as_its_addition_or_its_layers_say_and_never_as_another():
    sums = {"/net/net.s1/net.s1.0/Add": "a", "/net/Add": "b", "/net/Add_1": "c", "Add_7": "d"}
    layers, tensor, nodes = ["/x/Conv", "net.s2.conv", "/net/net.s3/net.s3.1/conv/Conv", "Conv_6"], "x", []
    for layer, (name, made) in zip(layers, sums.items(), strict=True):
        nodes += [node("Conv", [tensor, "w"], f"{made}.c", layer), node("Relu", [f"{made}.c"], f"{made}.r")]
        nodes += [node("Conv", [f"{made}.r", "w"], f"{made}.d", f"{layer}_1")]
        nodes += [node("Add", [tensor, f"{made}.d"], made, name)]
        tensor = made
    assert [block.name for block in blocks_in(view_of(*nodes))] == ["net.s1.0", "net.s2", "net.s3.1", "Add_7"]


def test_a_module_holds_the_gate_of_its_branch_and_no_module_inside_of_it_is_one():
    nodes = [
        node("Conv", ["x", "w"], "a", "conv"),
        node("Relu", ["a"], "b", "relu"),
        node("Conv", ["b", "w"], "c", "inner"),
        node("Add", ["b", "c"], "d", "sum"),
        node("GlobalAveragePool", ["d"], "e", "pool"),
        node("Conv", ["e", "w"], "f", "squeeze"),
        node("Mul", ["d", "f"], "g", "gate"),
        node("Add", ["g", "x"], "y", "/m.0/Add"),
        node("Relu", ["y"], "z", "last"),
    ]
    view = view_of(*nodes)
    assert modules_in(view) == {"m.0": ("conv", "relu", "inner", "sum", "pool", "squeeze", "gate", "/m.0/Add")}
    assert [(block.name, block.is_inside) for block in blocks_in(view)] == [("sum", True), ("m.0", False)]


def test_nodes_without_names_go_by_what_they_make():
    block = block_of(node("Conv", ["x", "w"], "y"), node("Add", ["x", "y"], "z"))
    assert (block.name, block.nodes) == ("z", ("y", "z"))


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Relu", ["x"], "y"), node("Relu", ["u"], "v"), node("Add", ["y", "v"], "z")],
        [node("Relu", ["x"], "y"), node("MaxPool", ["x"], "v"), node("Add", ["y", "v"], "z")],
        [node("Conv", ["x", "w"], "y"), node("Add", ["y", "w"], "z")],
        [node("Add", ["x", "x"], "z")],
    ],
    ids=["ways that never meet", "ways without a layer", "a constant", "a doubling"],
)
def test_other_additions_end_no_module(nodes):
    assert blocks_in(view_of(*nodes)) == []
