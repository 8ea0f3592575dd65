from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeres.core.errors import InputError
from edgeres.graph.structure import packed, taken_apart, unpacked, weight_shapes, with_weights

WEIGHT = np.arange(4, dtype=np.float32).reshape(2, 2, 1, 1)


def graph_of(*nodes, stored=()):
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2, 4, 4]) for name in ("images", "logits")]
    graph = helper.make_graph(list(nodes), "g", value[:1], value[1:], list(stored))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def beside(name, location):
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[2])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def add(reads, makes="logits", name="add"):
    return helper.make_node("Add", reads, [makes], name)


def test_weights_go_and_come_back():
    model = graph_of(
        helper.make_node("Conv", ["images", "w"], ["logits"], "conv"), stored=[numpy_helper.from_array(WEIGHT, "w")]
    )
    structure, weights = taken_apart(model, ())
    again = unpacked(packed(structure))
    assert weight_shapes(again) == {"conv.weight": (2, 2, 1, 1)}
    np.testing.assert_array_equal(weights["conv.weight"], WEIGHT)
    (tensor,) = with_weights(again, weights).graph.initializer
    np.testing.assert_array_equal(numpy_helper.to_array(tensor), WEIGHT)


@pytest.mark.parametrize("location", ["secret.bin", "weights"])
def test_a_constant_that_lies_in_a_file_is_refused_and_the_file_is_not_opened(location, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / location).write_bytes(np.ones(2, np.float32).tobytes())
    constant = helper.make_node("Constant", [], ["c"], "constant", value=beside("v", location))
    with pytest.raises(InputError, match="names what it does not hold"):
        unpacked(packed(graph_of(constant, add(["images", "c"]))))


def test_a_weight_that_lies_in_a_file_is_refused():
    with pytest.raises(InputError, match="names what it does not hold"):
        unpacked(packed(graph_of(add(["images", "w"]), stored=[beside("w", "../secret.bin")])))


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        ([add(["images", "late"]), add(["images", "images"], "late", "after")], "node 'add' reads what is made after"),
        ([add(["images", "round"], "logits", "one"), add(["logits", "images"], "round", "two")], "node 'one' reads"),
        ([add(["images", "images"]), add(["images", "images"], name="twice")], "node 'twice'"),
        ([add(["images", "images"], "other")], "names what it does not hold"),
    ],
    ids=["unsorted", "circle", "made twice", "no output"],
)
def test_a_graph_that_no_export_writes_is_refused_before_it_is_walked(nodes, said):
    with pytest.raises(InputError, match=said):
        unpacked(packed(graph_of(*nodes)))
