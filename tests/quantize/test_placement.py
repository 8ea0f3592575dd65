from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgeres.core.errors import InputError
from edgeres.graph.session import session_from
from edgeres.graph.view import LAYERS, GraphView
from edgeres.models.family import ORDERINGS
from edgeres.quantize.placement import (
    Options,
    cpu_placement_of,
    left_float_in,
    placement_of,
    with_classifier_first,
)


def node(op: str, inputs: list[str], output: str) -> onnx.NodeProto:
    return helper.make_node(op, inputs, [output], name=output)


def readers_of(placement, tensor: str) -> list[str]:
    return [name for point in placement.points if point.tensor == tensor for name, _ in point.readers]


def test_an_identity_module_shares_one_pair_between_its_first_layer_and_its_skip(onnx_of):
    placement = placement_of(onnx_of("resnet8").proto)
    assert readers_of(placement, "relu") == ["layer1.0.conv1", "layer1.0.add"]


def test_a_projection_gets_its_pair_behind_the_projection(onnx_of):
    placement = placement_of(onnx_of("resnet8", shortcut="B").proto)
    assert readers_of(placement, "layer2.0.downsample.0") == ["layer2.0.add"]
    assert readers_of(placement, "layer1.0.relu_1") == ["layer2.0.conv1", "layer2.0.downsample.0"]


def test_a_padded_skip_reads_the_shared_pair_and_keeps_its_scale_before_the_addition(onnx_of):
    placement = placement_of(onnx_of("resnet8", shortcut="A").proto)
    assert readers_of(placement, "layer1.0.relu_1") == ["layer2.0.conv1", "layer2.0.downsample.slice"]
    padded = next(point for point in placement.points if point.tensor == "layer2.0.downsample.pad")
    assert (padded.readers, padded.scale_of) == ((("layer2.0.add", 0),), "layer1.0.relu_1")
    assert "layer2.0.downsample.pad" not in placement.observed


def test_a_preactivation_skip_has_a_pair_of_its_own_on_the_raw_input(onnx_of):
    placement = placement_of(onnx_of("resnet14", ordering="full-preact", shortcut="A").proto)
    assert readers_of(placement, "layer1.0.add") == ["layer1.1.add"]
    assert readers_of(placement, "layer1.1.relu") == ["layer1.1.conv1"]
    padded = next(point for point in placement.points if point.tensor == "layer2.0.downsample.pad")
    assert padded.scale_of == padded.tensor


def cases() -> list[tuple[str, dict[str, object]]]:
    return [
        *(
            (arch, {"ordering": ordering, "shortcut": shortcut})
            for arch in ("resnet8", "fcresnet8")
            for ordering in ORDERINGS
            for shortcut in "ABC"
        ),
        *(("resnet5", {"layers": 1, "shortcut": shortcut}) for shortcut in "ABC"),
        *(("resnet11", {"bottleneck": True, "layers": 3, "shortcut": shortcut}) for shortcut in "ABC"),
        ("resnet14", {"ordering": "bn-after-add", "dropped": ("layer1.1", "layer2.0")}),
        ("resnet14", {"shortcut": "B", "dropped": ("layer1.0", "layer3.0")}),
        ("plain8", {}),
        ("vgg11", {}),
    ]


@pytest.mark.covering(2)
@pytest.mark.parametrize(("arch", "options"), cases())
def test_every_layer_is_quantized_and_of_every_addition_the_skip_alone(arch, options, onnx_of):
    model = onnx_of(arch, **options).proto
    placement, view = placement_of(model), GraphView(model)
    read = [reader for point in placement.points for reader in point.readers]
    assert len(read) == len(set(read))
    assert (
        {layer.name for layer in view.layers}
        == set(placement.layers)
        == {n for n, _ in read} & {layer.name for layer in view.layers}
    )
    assert [addition.name for addition in view.additions] == list(placement.additions)
    for addition in view.additions:
        inputs = [index for name, index in read if name == addition.name]
        assert len(inputs) == 1
        skip, branch = addition.input[inputs[0]], addition.input[1 - inputs[0]]
        assert branch_of(view, branch) > 0
        assert ".downsample" in skip or branch_of(view, skip) == 0


def branch_of(view: GraphView, tensor: str) -> int:
    """Layers of the branch F that end in `tensor`, told by the names of the original network."""
    layers, module = 0, tensor.rsplit(".", 1)[0]
    while (node := view.producers.get(tensor)) is not None and node.name.startswith(module + "."):
        if node.op_type == "Add":
            break
        layers += node.op_type in LAYERS and ".downsample" not in node.name
        tensor = node.input[0]
    return layers


def test_stem_and_head_can_stay_float(onnx_of):
    model = onnx_of("resnet8").proto
    whole = placement_of(model)
    part = placement_of(model, Options(stem=False, head=False))
    assert set(whole.layers) - set(part.layers) == {"conv1", "fc"}
    assert set(whole.observed) - set(part.observed) == {"images", "flatten", "layer3.0.relu_1"}


@pytest.mark.covering(1)
@pytest.mark.parametrize(("arch", "options"), cases())
def test_the_pool_before_the_last_layer_reads_a_pair_where_an_int8_kernel_makes_what_it_averages(
    arch, options, onnx_of
):
    model = onnx_of(arch, **options).proto
    view = GraphView(model)
    for pool in (one for one in view.nodes if one.op_type == "GlobalAveragePool"):
        assert readers_of(placement_of(model), pool.input[0]) == [pool.name]
        assert readers_of(placement_of(model, Options(head=False)), pool.input[0]) == []


def test_a_pool_behind_a_module_that_stays_float_is_float(onnx_of):
    model = onnx_of("resnet8").proto
    assert readers_of(placement_of(model), "layer3.0.relu_1") == ["avgpool"]
    for keep in ("layer3.0", "layer3.0.skip", "layer3.0.conv2"):
        placement = placement_of(model, Options(keep=(keep,)))
        assert readers_of(placement, "layer3.0.relu_1") == []
        assert readers_of(placement, "flatten") == ["fc"]


HEAD_MACS = 3 * 64 * 10  # of resnet8 on 8 pixels: 64 features at four positions instead of one


def test_a_classifier_in_front_of_the_average_computes_the_same(onnx_of):
    model = onnx_of("resnet8").proto
    moved = with_classifier_first(model, HEAD_MACS)
    assert [one.op_type for one in moved.graph.node][-3:] == ["Conv", "GlobalAveragePool", "Flatten"]
    images = np.random.default_rng(0).normal(size=(1, 1, 8, 8)).astype(np.float32)
    before, after = (session_from(one, "it").run(None, {"images": images})[0] for one in (model, moved))
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)
    placement = placement_of(moved)
    assert readers_of(placement, "layer3.0.relu_1") == ["fc"]
    assert "fc" in placement.layers
    assert "fc.scores" not in placement.observed  # neither the average nor what is averaged is rounded


def also_an_output(model):
    model.graph.output.append(helper.make_tensor_value_info("flatten", TensorProto.FLOAT, [1, 64]))


def read_by_another(model):
    model.graph.node.append(node("Relu", ["avgpool"], "more"))
    model.graph.output.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1, 64, 1, 1]))


@pytest.mark.parametrize(
    ("change", "most", "stays"),
    [
        (None, HEAD_MACS - 1, ()),
        (None, HEAD_MACS, ("fc",)),
        (also_an_output, HEAD_MACS, ()),
        (read_by_another, HEAD_MACS, ()),
    ],
)
def test_a_classifier_stays_behind_the_average_where_it_would_cost_or_others_read_it(change, most, stays, onnx_of):
    model = onnx.ModelProto.FromString(onnx_of("resnet8").proto.SerializeToString())
    if change is not None:
        change(model)
    assert with_classifier_first(model, most, stays) is model


POOLED = [node("Conv", ["x", "w"], "a"), node("AveragePool", ["a"], "p"), node("Conv", ["p", "w"], "y")]


@pytest.mark.parametrize(
    ("more", "readers"),
    [
        ([], ["p"]),
        ([node("MaxPool", ["a"], "m"), node("Conv", ["m", "w"], "z")], ["p"]),  # its pair moves in front of it
        ([node("Conv", ["a", "w"], "z")], ["z", "p"]),  # as in the shortcut of a ResNet-D: one pair serves both
        ([node("Mul", ["a", "y"], "z")], []),  # as a gate does: a is written in float for it
        ([node("Relu", ["p"], "z")], []),  # the average itself is wanted in float
    ],
)
def test_an_average_pool_between_int8_layers_reads_a_pair(more, readers):
    assert readers_of(placement_of(graph_of([*POOLED, *more])), "a") == readers


def test_a_mean_over_height_and_width_is_an_average_pool():
    mean = onnx.helper.make_node("ReduceMean", ["a"], ["p"], name="p", axes=[-2, -1])
    assert readers_of(placement_of(graph_of([POOLED[0], mean, POOLED[2]])), "a") == ["p"]
    del mean.attribute[:]
    assert readers_of(placement_of(graph_of([POOLED[0], mean, POOLED[2]])), "a") == []


def test_a_cpu_adds_in_integers_what_an_average_pool_reads():
    nodes = [node("Conv", ["x", "w"], "a"), node("Add", ["a", "x"], "s"), node("AveragePool", ["s"], "p")]
    assert cpu_placement_of(graph_of([*nodes, POOLED[2]])).additions == ("s",)


def test_pools_one_behind_the_other_are_all_in_int8():
    nodes = [POOLED[0], node("AveragePool", ["a"], "b"), node("AveragePool", ["b"], "p"), POOLED[2]]
    placement = placement_of(graph_of(nodes))
    assert (readers_of(placement, "a"), readers_of(placement, "b")) == (["b"], ["p"])


def test_an_addition_of_unrelated_tensors_has_no_skip():
    model = graph_of([node("Relu", ["x"], "y"), node("Relu", ["u"], "v"), node("Add", ["y", "v"], "z")])
    assert placement_of(model).points == ()


def test_a_layer_in_a_form_that_export_never_writes_is_refused_by_name():
    with pytest.raises(InputError, match="Gemm node 'z' has transB = 0"):
        placement_of(graph_of([node("Gemm", ["x", "w"], "z")]))


@pytest.mark.parametrize("rule", [placement_of, cpu_placement_of])
@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        ([("MatMul", ["x", "w"], "z")], "MatMul"),
        ([("ConvTranspose", ["x", "w"], "z")], "ConvTranspose"),
        ([("Relu", ["x"], "r"), ("Conv", ["x", "r"], "z")], "Conv with computed weights"),
        ([("Conv", ["x", "row"], "z")], "1-dimensional Conv"),
    ],
)
def test_layers_without_an_integer_kernel_here_stay_float_with_the_reason(rule, nodes, why):
    model = graph_of([*(node(*entry) for entry in nodes), node("Conv", ["z", "w"], "y")])
    assert left_float_in(GraphView(model)) == {"z": why}
    placement = rule(model)
    assert placement.layers == ("y",)
    assert all("z" not in dict(point.readers) for point in placement.points)


def graph_of(nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    images = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 1, 1, 1)) for name in "xu"]
    weights = [
        helper.make_tensor("w", TensorProto.FLOAT, (1, 1, 1, 1), [1.0]),
        helper.make_tensor("row", TensorProto.FLOAT, (1, 1, 1), [1.0]),
        helper.make_tensor("w9", TensorProto.FLOAT, (1, 1, 3, 3), [1.0] * 9),
    ]
    output = helper.make_tensor_value_info("z", TensorProto.FLOAT, None)
    return helper.make_model(helper.make_graph(nodes, "test", images, [output], weights))
