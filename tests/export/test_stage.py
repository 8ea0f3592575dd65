from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from edgeres.core.errors import InputError, StageError
from edgeres.core.spec import ModelSpec
from edgeres.export import stage
from edgeres.export.stage import ExportConfig, export
from edgeres.models import spec_from_arch
from edgeres.models.family import ORDERINGS
from edgeres.models.weights import load_network
from edgeres.runtime import runner_for

KNOWN_OPERATORS = {
    "Add",
    "BatchNormalization",
    "Conv",
    "Flatten",
    "Gemm",
    "GlobalAveragePool",
    "MaxPool",
    "Pad",
    "Relu",
    "Slice",
}


def variants() -> list[tuple[str, dict[str, object], tuple[str, ...]]]:
    residual = [
        (arch, {"ordering": ordering, "shortcut": shortcut}, ())
        for arch in ("resnet8", "fcresnet8")
        for ordering in ORDERINGS
        for shortcut in "ABC"
    ]
    return [
        *residual,
        ("resnet5", {"layers": 1}, ()),
        ("resnet11", {"layers": 3, "bottleneck": True}, ()),
        ("plain8", {}, ("layer2.0",)),
        ("vgg11", {}, ("layer3.1",)),
        ("resnet14", {}, ("layer1.1", "layer2.0")),
        ("resnet14", {"ordering": "bn-after-add", "shortcut": "B"}, ("layer1.1", "layer2.0")),
        ("resnet14", {"ordering": "full-preact", "shortcut": "B"}, ("layer1.0", "layer3.0")),
        ("fcresnet14", {"ordering": "full-preact"}, ("layer1.1", "layer2.0")),
    ]


@pytest.mark.covering(2)
@pytest.mark.parametrize(("arch", "options", "dropped"), variants())
def test_every_network_exports_to_the_same_function_in_known_operators(
    arch, options, dropped, spec_of, checkpoint_of, tmp_path
):
    source = checkpoint_of(spec_of(arch, **options).without(dropped))
    result = export(source, ExportConfig(batch=3), tmp_path / "out")
    images = np.random.default_rng(5).standard_normal((3, 1, 8, 8), dtype=np.float32)
    with torch.inference_mode():
        expected = load_network(source)(torch.from_numpy(images)).numpy()
    with runner_for(result.output) as runner:
        actual = runner.infer(images)
    assert np.abs(actual - expected).max() < 1e-5 * np.abs(expected).max()
    assert {node.op_type for node in result.output.proto.graph.node} <= KNOWN_OPERATORS
    assert "MatMul" not in {node.op_type for node in result.output.proto.graph.node}


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["resnet18", pytest.param("resnet50", marks=pytest.mark.exhaustive)])
def test_imagenet_networks_export(arch, checkpoint_of, tmp_path):
    spec = spec_from_arch(arch, num_classes=10, input_shape=(3, 32, 32), options={"width": 16})
    result = export(checkpoint_of(spec), ExportConfig(), tmp_path / "out")
    assert result.report.results["max_relative_difference"] < 1e-5


def test_the_file_says_what_it_is(spec_of, checkpoint_of, tmp_path):
    source = checkpoint_of(spec_of())
    output = export(source, ExportConfig(), tmp_path / "out").output
    assert output.spec == source.spec
    assert output.card.parent == source.sha256
    assert output.card.stage == "export"
    assert output.precision == "fp32"
    assert [entry.version for entry in output.proto.opset_import] == [17]


@pytest.mark.parametrize("opset", [13, 17, 20])
def test_the_opset_is_the_one_asked_for(opset, spec_of, checkpoint_of, tmp_path):
    output = export(checkpoint_of(spec_of()), ExportConfig(opset=opset), tmp_path / "out").output
    assert output.proto.opset_import[0].version == opset


@pytest.mark.parametrize("opset", [13, 20])
def test_a_network_of_ones_own_goes_to_other_opsets_as_well(opset, gated, tmp_path):
    output = export(gated, ExportConfig(opset=opset), tmp_path / "out").output
    assert output.proto.opset_import[0].version == opset


def test_nodes_and_tensors_bear_the_names_of_their_modules(spec_of, checkpoint_of, tmp_path):
    output = export(checkpoint_of(spec_of(shortcut="B")), ExportConfig(), tmp_path / "out").output
    graph = output.proto.graph
    names = {node.name: node for node in graph.node}
    assert len(names) == len(graph.node)
    assert list(names)[:7] == [
        "conv1",
        "relu",
        "layer1.0.conv1",
        "layer1.0.relu",
        "layer1.0.conv2",
        "layer1.0.add",
        "layer1.0.relu_1",
    ]
    assert list(names["layer2.0.downsample.0"].input) == [
        "layer1.0.relu_1",
        "layer2.0.downsample.0.weight",
        "layer2.0.downsample.0.bias",
    ]
    assert names["layer1.0.add"].output[0] == "layer1.0.add"
    assert (graph.input[0].name, graph.output[0].name) == ("images", "logits")


def test_a_static_graph_has_numbers_and_a_dynamic_one_a_symbol_in_dimension_0_only(spec_of, checkpoint_of, tmp_path):
    source = checkpoint_of(spec_of())
    static = export(source, ExportConfig(batch=4), tmp_path / "static").output
    dynamic = export(source, ExportConfig(dynamic=True), tmp_path / "dynamic").output
    assert (static.batch, dynamic.batch) == (4, None)
    dims = [
        [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*dynamic.proto.graph.input, *dynamic.proto.graph.output)
    ]
    assert dims == [["batch", 1, 8, 8], ["batch", 10]]


def test_exporting_twice_gives_the_same_bytes(spec_of, checkpoint_of, tmp_path):
    source = checkpoint_of(spec_of())
    first = export(source, ExportConfig(), tmp_path / "first").output
    second = export(source, ExportConfig(), tmp_path / "second").output
    assert first.path.read_bytes() == second.path.read_bytes()


def test_a_graph_that_disagrees_with_torch_is_not_written(spec_of, checkpoint_of, tmp_path, monkeypatch):
    def wrong(network, spec: ModelSpec, config: ExportConfig) -> onnx.ModelProto:
        model = right(network, spec, config)
        for tensor in model.graph.initializer:
            if tensor.name == "layer2.0.conv1.weight":
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 1.01, tensor.name))
        return model

    right = stage._onnx_from
    monkeypatch.setattr(stage, "_onnx_from", wrong)
    with pytest.raises(StageError, match=r"other logits in ONNX Runtime than in torch.*nothing was written"):
        export(checkpoint_of(spec_of()), ExportConfig(), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(("task", "what"), [("classes", "logit"), ("embedding", "output")])
def test_what_differs_is_called_what_the_network_gives(spec_of, checkpoint_of, tmp_path, monkeypatch, task, what):
    monkeypatch.setattr(stage, "_difference", lambda *_: 1.0)
    source = checkpoint_of(spec_of().model_copy(update={"task": task}))
    with pytest.raises(StageError, match=rf"other {what}s in .* differ by 1 of the largest {what} "):
        export(source, ExportConfig(), tmp_path / "out")


@pytest.mark.parametrize("values", [{"opset": 12}, {"opset": 21}, {"batch": 0}, {"bach": 1}])
def test_impossible_options_are_refused(values):
    with pytest.raises(InputError):
        ExportConfig(**values)


@pytest.mark.parametrize(("batch", "is_refused"), [(3, True), (1, False)])
def test_a_batch_is_refused_for_a_dynamic_graph(spec_of, checkpoint_of, tmp_path, batch, is_refused):
    config = ExportConfig(batch=batch, dynamic=True)
    if is_refused:
        with pytest.raises(InputError, match=r"--batch 3 is for a static graph, .* --dynamic"):
            export(checkpoint_of(spec_of("resnet8")), config, tmp_path)
    else:
        assert export(checkpoint_of(spec_of("resnet8")), config, tmp_path).output.batch is None
