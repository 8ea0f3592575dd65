from __future__ import annotations

import json

import onnx
import pytest
from onnx import TensorProto, helper

from edgeres.compile.layers import layers_path
from edgeres.core.artifacts import Engine, OnnxModel
from edgeres.core.config import Config
from edgeres.core.files import sha256_of
from edgeres.core.spec import Card, Cost
from edgeres.core.stage import Recorder, write_report
from edgeres.runtime.manifest import EngineManifest


@pytest.fixture
def graph(tmp_path):
    """x -> conv -> + x."""
    value = [1, 1, 4, 4]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="layer1.0.conv1"),
        helper.make_node("Add", ["x", "c"], ["y"], name="layer1.0.add"),
    ]
    weight = helper.make_tensor("w", TensorProto.FLOAT, [1, 1, 1, 1], [1.0])
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, value) for name in "xy"]
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", tensors[:1], tensors[1:], [weight])), path)
    return path


@pytest.fixture
def description(tmp_path):
    path = tmp_path / "layers.json"
    reads, writes = ([{"Name": name, "Format": "kCHW32", "DataType": "Int8"}] for name in "xy")
    layer = {
        "Name": "layer1.0.conv1 + layer1.0.add",
        "LayerType": "CaskConvolution",
        "Inputs": reads * 2,
        "Outputs": writes,
    }
    path.write_text(json.dumps({"Layers": [layer]}))
    return path


@pytest.fixture
def manifest(graph, tmp_path, spec_of):
    """Of model.plan, beside which it lies."""
    plan = tmp_path / "model.plan"
    plan.write_bytes(b"a plan")
    made = EngineManifest(
        card=Card(spec=spec_of(), cost=Cost(params=1, macs=1), stage="compile", parent="0" * 64, edgeres="0"),
        runtime="tensorrt",
        runtime_version="10.3.0.30",
        targets=("sm87",),
        precision="int8",
        onnx_sha256=sha256_of(graph),
        plan_sha256=sha256_of(plan),
        batch=(1, 1, 1),
        inputs={"x": (1, 1, 4, 4)},
        outputs={"y": (1, 1, 4, 4)},
        build_s=1.0,
    )
    plan.with_name("model.plan.json").write_text(made.model_dump_json())
    return made


def test_the_report_names_every_module_and_ends_in_one_line(edgeres, graph, description):
    code, out, _ = edgeres("layers", description, "--onnx", graph)
    assert code == 0
    assert out.splitlines() == [
        "module    kernels  in    out   addition",
        "layer1.0  1 INT8   INT8  INT8  fused in INT8",
        "kernels: 1 INT8; 0 reformats, 0 stray Q/DQ",
        "1/1 residual adds fused in INT8",
    ]


def test_without_the_graph_a_profile_beside_tells_the_time_and_its_sum_is_labelled(edgeres, description):
    (layer,) = json.loads(description.read_text())["Layers"]
    rows = [{"count": 9}, {"name": layer["Name"], "timeMs": 3.0, "averageMs": 0.3}, {"name": "rest", "averageMs": 0.1}]
    description.with_name("profile.json").write_text(json.dumps(rows))
    whole = {"performance_summary": {"GPU Compute Time": [0.1, 0.3, 0.2, 0.2, 0.3]}}
    description.with_name("profile.metadata.json").write_text(json.dumps(whole))
    code, out, _ = edgeres("layers", description)
    assert code == 0
    assert out.splitlines() == [
        "module    kernels  in    out   time    share  addition",
        "layer1.0  1 INT8   INT8  INT8  0.3 ms  75.0%  fused in INT8",
        "outside                        0.1 ms  25.0%",
        "kernels: 1 INT8; 0 reformats, 0 stray Q/DQ",
        (
            "times: each layer profiled by itself, 0.4 ms in all, 2.00 times the 0.2 ms of the engine in one piece;"
            " their sum is no latency"
        ),
        "1/1 residual adds fused in INT8",
    ]


def test_a_region_that_names_no_addition_is_no_claim_about_the_network(edgeres, description):
    region = {"Name": "{ForeignNode[conv1...fc]}", "LayerType": "Myelin", "Inputs": [], "Outputs": []}
    description.write_text(json.dumps({"Layers": [region]}))
    code, out, _ = edgeres("layers", description)
    assert code == 0
    assert out.splitlines()[-1] == "no residual adds can be told from this file alone; add --onnx FILE"


@pytest.mark.usefixtures("manifest")
@pytest.mark.parametrize("given", ["model.plan", "model.plan.layers.json"])
def test_the_graph_that_the_engine_was_made_from_is_taken_where_it_is_there(edgeres, graph, given, tmp_path):
    region = {"Name": "{ForeignNode[layer1.0.conv1...layer1.0.add]}", "LayerType": "Myelin"}
    plan = tmp_path / "model.plan"
    layers_path(plan).write_text(json.dumps({"Layers": [region]}))
    report = Recorder("compile", Config(), OnnxModel(graph)).finish(Engine(plan))
    write_report(report, tmp_path / "model.plan.report.json")
    code, out, err = edgeres("layers", tmp_path / given)
    assert (code, out.splitlines()[-1]) == (0, "0/1 residual adds fused in INT8, 1 inside a region")
    assert err == f"layers: takes {graph}\n"
    graph.unlink()
    assert "can be told" in edgeres("layers", tmp_path / given)[1].splitlines()[-1]


def test_the_report_as_json(edgeres, graph, description):
    code, out, _ = edgeres("layers", description, "--onnx", graph, "--json")
    assert code == 0
    assert json.loads(out)["schema_version"] == 1
    assert json.loads(out)["modules"][0]["addition"] == "fused"


def test_a_file_without_layers_is_bad_input(edgeres, graph):
    code, _, err = edgeres("layers", graph, "--onnx", graph)
    assert code == 2
    assert "not readable JSON" in err


@pytest.mark.parametrize("given", ["model.plan", "model.plan.layers.json"])
def test_the_graph_of_another_engine_is_refused(edgeres, graph, description, given, tmp_path, manifest):
    layers_path(tmp_path / "model.plan").write_bytes(description.read_bytes())
    assert edgeres("layers", tmp_path / given, "--onnx", graph)[0] == 0
    other = manifest.model_copy(update={"onnx_sha256": "f" * 64})
    (tmp_path / "model.plan.json").write_text(other.model_dump_json())
    code, _, err = edgeres("layers", tmp_path / given, "--onnx", graph)
    assert code == 2
    assert f"model.plan was built from another graph (sha256 {'f' * 12}) than {graph}" in err


def test_modules_of_a_network_of_ones_own_have_its_names(edgeres, gated, exported, tmp_path):
    graph = exported(gated)
    layers = [{"Name": node.name, "LayerType": "Conv"} for node in graph.proto.graph.node]
    (tmp_path / "layers.json").write_text(json.dumps({"Layers": layers}))
    code, out, _ = edgeres("layers", tmp_path / "layers.json", "--onnx", graph.path, "--json")
    names = [module["module"] for module in json.loads(out)["modules"]]
    assert (code, names) == (0, ["backbone.s1.0", "backbone.s1.1", "backbone.s2.0", "backbone.s2.1"])
