from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper
from onnxruntime.capi.onnxruntime_pybind11_state import Fail

from edgeres.core.errors import InputError
from edgeres.graph import session
from edgeres.graph.session import GraphSession, with_outputs


@pytest.fixture
def model() -> onnx.ModelProto:
    """y = x + x, z = relu(y)."""
    nodes = [helper.make_node("Add", ["x", "x"], ["y"]), helper.make_node("Relu", ["y"], ["z"])]
    ends = [[helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2])] for name in ("x", "z")]
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(helper.make_graph(nodes, "g", *ends), opset_imports=opsets, ir_version=8)


def test_any_tensor_of_a_graph_can_be_read_once_or_twice(model):
    opened = GraphSession(model, "the graph", ["y", "z", "y"], threads=1)
    found = opened.run({"x": np.float32([-1, 2])})
    assert {name: values.tolist() for name, values in found.items()} == {"y": [-2, 4], "z": [0, 4]}
    assert [value.name for value in model.graph.output] == ["z"]


def test_a_graph_that_loads_and_cannot_run_is_one_line(model):
    opened = GraphSession(model, "the graph", ["z"])
    with pytest.raises(InputError, match=r"ONNX Runtime cannot run the graph: .*Got: 3 Expected: 2"):
        opened.run({"x": np.float32([1, 2, 3])})


def test_a_graph_that_onnx_runtime_breaks_when_it_optimizes_is_run_as_it_stands_and_that_is_said(
    model, monkeypatch, caplog
):
    made = []

    class Broken:
        def run(self, *_):
            raise Fail("Non-zero status code returned while running Conv node")

    def make(*given, optimized=True, **options):
        made.append(optimized)
        return Broken() if optimized else real(*given, optimized=False, **options)

    real = session.session_from
    monkeypatch.setattr(session, "session_from", make)
    opened = GraphSession(model, "the graph", ["y"])
    for _ in range(2):
        assert opened.run({"x": np.float32([-1, 2])})["y"].tolist() == [-2, 4]
    assert made == [True, False]
    assert [one.getMessage() for one in caplog.records] == [
        "the graph is run as it stands, which takes longer: ONNX Runtime's optimizer breaks it"
    ]


def test_outputs_that_are_there_are_not_added_again(model):
    assert with_outputs(model, ["z", "x"]) is model
    assert [value.name for value in with_outputs(model, ["y", "y"]).graph.output] == ["z", "y"]


def test_a_graph_that_cannot_be_loaded_is_called_by_its_name(model, capfd):
    model.graph.node[1].op_type = "Unheard"
    with pytest.raises(InputError, match=r"ONNX Runtime cannot load the graph: .*Unheard"):
        GraphSession(model, "the graph", ["z"])
    assert capfd.readouterr().err == ""
