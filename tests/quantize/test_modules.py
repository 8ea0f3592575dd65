from __future__ import annotations

import pytest
import torch
from torch import nn

from edgeres import api
from edgeres.core.errors import InputError
from edgeres.export.stage import ExportConfig, export
from edgeres.graph.blocks import modules_in, nodes_named
from edgeres.graph.view import GraphView
from edgeres.models import modules_of
from edgeres.models.weights import checkpoint_without
from edgeres.quantize.decision import Decision
from edgeres.quantize.insert import with_pairs
from edgeres.quantize.placement import Options, placement_of


def test_modules_are_those_of_the_original_network_with_all_their_nodes(onnx_of):
    modules = modules_in(GraphView(onnx_of("resnet14", shortcut="B", dropped=("layer1.1",)).proto))
    assert list(modules) == ["layer1.0", "layer2.0", "layer2.1", "layer3.0", "layer3.1"]
    assert modules["layer2.0"][-2:] == ("layer2.0.add", "layer2.0.relu_1")
    assert "layer2.0.downsample.0" in modules["layer2.0"]


@pytest.mark.parametrize("arch", ["plain8", "vgg11"])
def test_networks_without_skips_have_modules_too(arch, onnx_of):
    modules = modules_in(GraphView(onnx_of(arch).proto))
    assert modules
    assert all(name.startswith("layer") for name in modules)


def test_pairs_named_after_weights_are_no_modules_where_nodes_have_other_names(onnx_of):
    model = onnx_of("resnet8").proto
    for place, node in enumerate(model.graph.node):
        node.name = f"node_{node.op_type}_{place}"
    float_modules, placement = modules_in(GraphView(model)), placement_of(model)
    made = modules_in(GraphView(with_pairs(model, placement, Decision(dict.fromkeys(placement.observed, 6.0)))))
    assert list(made) == list(float_modules) == ["layer1.0", "layer2.0", "layer3.0"]
    assert all({*nodes} >= {one for one in float_modules[name] if "Conv" in one} for name, nodes in made.items())


def test_a_graph_of_other_names_has_the_nodes_between_fork_and_addition(onnx_of):
    model = onnx_of("resnet8", shortcut="B").proto
    for node in model.graph.node:
        node.name = node.name.replace("layer", "stage")
    modules = modules_in(GraphView(model))
    assert list(modules) == ["stage1.0", "stage2.0", "stage3.0"]
    assert set(modules["stage2.0"]) == {
        "stage2.0.conv1",
        "stage2.0.relu",
        "stage2.0.conv2",
        "stage2.0.downsample.0",
        "stage2.0.add",
    }


def test_a_kept_module_loses_its_layers_its_addition_and_pairs_nothing_else_reads(onnx_of):
    model = onnx_of("resnet14", shortcut="B").proto
    whole, part = placement_of(model), placement_of(model, Options(keep=("layer2.0",)))
    layers = {"layer2.0.conv1", "layer2.0.conv2", "layer2.0.downsample.0"}
    assert set(whole.layers) - set(part.layers) == layers
    assert set(whole.additions) - set(part.additions) == {"layer2.0.add"}
    assert set(whole.observed) - set(part.observed) == {"layer1.1.relu_1", "layer2.0.relu", "layer2.0.downsample.0"}


def test_the_pair_of_a_kept_skip_stays_where_a_quantized_layer_reads_it(onnx_of):
    placement = placement_of(onnx_of("resnet14").proto, Options(keep=("layer1.1.conv2",)))
    readers = next(point.readers for point in placement.points if point.tensor == "layer1.0.relu_1")
    assert [name for name, _ in readers] == ["layer1.1.conv1"]
    assert "layer1.1.add" not in placement.additions


def test_a_kept_first_layer_leaves_the_addition_quantized(onnx_of):
    placement = placement_of(onnx_of("resnet14").proto, Options(keep=("layer1.1.conv1",)))
    assert "layer1.1.add" in placement.additions
    assert "layer1.1.conv1" not in placement.layers


@pytest.mark.parametrize("dropped", [(), ("backbone.s1.1", "backbone.s2.1")])
def test_modules_of_a_network_of_ones_own_are_named_as_lesion_and_prune_name_them(gated, exported, tmp_path, dropped):
    source = checkpoint_without(gated, dropped, tmp_path / "model.safetensors")
    graph = exported(source).proto
    names = [one for one in ("backbone.s1.0", "backbone.s1.1", "backbone.s2.0", "backbone.s2.1") if one not in dropped]
    placement = placement_of(graph, Options(keep=tuple(names[:1])))
    int8 = with_pairs(graph, placement, Decision(dict.fromkeys(placement.observed, 4.0)))
    for model in (graph, int8):
        assert list(modules_in(GraphView(model))) == names
    del int8.metadata_props[:]
    assert list(modules_in(GraphView(int8))) == names
    own = {f"{names[0]}.{part}" for part in ("conv1", "conv2", "squeeze", "excite")}
    assert set(placement_of(graph).layers) - set(placement.layers) == own


def test_a_module_keeps_its_name_where_what_it_shared_its_scope_with_is_gone(tmp_path):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Conv2d(3, 3, 3, 1, 1) for _ in range(2))
            self.head = nn.Linear(3, 4)

        def forward(self, x):
            for layer in self.layers:
                x = x + layer(x).relu()
            return self.head(x.mean((2, 3)))

    preprocess = api.Preprocess(mean=(0.5,), std=(0.25,))
    whole = api.trace(Two().eval(), torch.zeros(1, 3, 8, 8), tmp_path / "two.safetensors", preprocess=preprocess)
    first, second = (module.name for module in modules_of(whole.spec))
    left = checkpoint_without(whole, (first,), tmp_path / "one.safetensors")
    graph = export(left, ExportConfig(), tmp_path / "float").output.proto
    assert list(modules_in(GraphView(graph))) == [second]


def test_layers_and_modules_can_be_named_and_nothing_else(onnx_of):
    view = GraphView(onnx_of().proto)
    assert nodes_named(view, ["fc"]) == {"fc"}
    with pytest.raises(InputError, match=r"no layer or module 'layer1'.*modules: layer1\.0, layer2\.0, layer3\.0"):
        nodes_named(view, ["layer1"])
