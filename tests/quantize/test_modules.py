from __future__ import annotations

import pytest

from edgeres.core.errors import InputError
from edgeres.graph.blocks import modules_in, nodes_named
from edgeres.graph.view import GraphView
from edgeres.quantize.placement import placement_of


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


def test_a_graph_of_other_names_has_the_nodes_between_fork_and_addition(onnx_of):
    model = onnx_of("resnet8", shortcut="B").proto
    for node in model.graph.node:
        node.name = node.name.replace("layer", "stage")
    modules = modules_in(GraphView(model))
    assert list(modules) == ["stage1.0.add", "stage2.0.add", "stage3.0.add"]
    assert set(modules["stage2.0.add"]) == {
        "stage2.0.conv1",
        "stage2.0.relu",
        "stage2.0.conv2",
        "stage2.0.downsample.0",
        "stage2.0.add",
    }


def test_a_kept_module_loses_its_layers_its_addition_and_pairs_nothing_else_reads(onnx_of):
    model = onnx_of("resnet14", shortcut="B").proto
    whole, part = placement_of(model), placement_of(model, keep={"layer2.0"})
    layers = {"layer2.0.conv1", "layer2.0.conv2", "layer2.0.downsample.0"}
    assert set(whole.layers) - set(part.layers) == layers
    assert set(whole.additions) - set(part.additions) == {"layer2.0.add"}
    assert set(whole.observed) - set(part.observed) == {"layer1.1.relu_1", "layer2.0.relu", "layer2.0.downsample.0"}


def test_the_pair_of_a_kept_skip_stays_where_a_quantized_layer_reads_it(onnx_of):
    placement = placement_of(onnx_of("resnet14").proto, keep={"layer1.1.conv2"})
    readers = next(point.readers for point in placement.points if point.tensor == "layer1.0.relu_1")
    assert [name for name, _ in readers] == ["layer1.1.conv1"]
    assert "layer1.1.add" not in placement.additions


def test_a_kept_first_layer_leaves_the_addition_quantized(onnx_of):
    placement = placement_of(onnx_of("resnet14").proto, keep={"layer1.1.conv1"})
    assert "layer1.1.add" in placement.additions
    assert "layer1.1.conv1" not in placement.layers


def test_layers_and_modules_can_be_named_and_nothing_else(onnx_of):
    view = GraphView(onnx_of().proto)
    assert nodes_named(view, ["fc"]) == {"fc"}
    with pytest.raises(InputError, match=r"no layer or module 'layer1'.*modules: layer1\.0, layer2\.0, layer3\.0"):
        nodes_named(view, ["layer1"])
