from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edgeres.core.errors import InputError
from edgeres.graph.execute import GraphNetwork
from edgeres.quantize.decision import Decision
from edgeres.quantize.insert import with_pairs
from edgeres.quantize.placement import placement_of

VARIANTS = [
    ("resnet8", {"shortcut": "A"}),
    ("resnet8", {"shortcut": "B"}),
    ("resnet8", {"ordering": "full-preact", "shortcut": "A"}),
    ("resnet8", {"ordering": "bn-after-add"}),
    ("fcresnet8", {}),
    ("resnet11", {"layers": 3, "bottleneck": True}),
    ("vgg11", {}),
]


@pytest.fixture
def graph_of(onnx_of):
    def make(arch="resnet8", **options):
        return onnx_of(arch, dynamic=True, **options).proto

    return make


def images_of(n: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n, 1, 8, 8), np.float32)


def literal(model, images: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images})[0]


def torch_logits(model, images: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return GraphNetwork(model)(torch.from_numpy(images)).numpy()


def sqnr_db(signal: np.ndarray, other: np.ndarray) -> float:
    return 10 * np.log10(np.square(signal).sum() / max(np.square(signal - other).sum(), 1e-30))


@pytest.mark.parametrize(("arch", "options"), VARIANTS)
def test_a_float_graph_gives_what_onnx_runtime_gives(graph_of, arch, options):
    model = graph_of(arch, **options)
    assert sqnr_db(literal(model, images_of(6)), torch_logits(model, images_of(6))) > 100


@pytest.mark.parametrize(("arch", "options"), VARIANTS)
def test_a_quantized_graph_gives_what_onnx_runtime_gives_node_by_node(graph_of, arch, options):
    model = graph_of(arch, **options)
    placement = placement_of(model)
    bounds = {name: 3 + 0.017 * place for place, name in enumerate(placement.observed)}  # one for all would make ties
    quantized, images = with_pairs(model, placement, Decision(bounds)), images_of(6)
    assert sqnr_db(literal(quantized, images), torch_logits(quantized, images)) > 45
    assert sqnr_db(literal(quantized, images), torch_logits(model, images)) < 45


def test_a_part_of_the_graph_runs_from_its_own_inputs(graph_of):
    model = graph_of("resnet8")
    network, images = GraphNetwork(model), torch.from_numpy(images_of(4))
    with torch.inference_mode():
        middle = network.values(images, ["layer2.0.add"])
        rest = network.run(middle, [network.output])[network.output]
        assert torch.equal(rest, network(images))


def test_a_target_that_the_feeds_do_not_reach_is_refused(graph_of):
    network = GraphNetwork(graph_of("resnet8"))
    with pytest.raises(InputError, match="no way to compute 'images' from 'logits'"):
        network.run({"logits": torch.zeros(1, 10)}, ["layer1.0.add"])


def test_a_substitute_is_seen_by_its_readers_only(graph_of):
    network, images = GraphNetwork(graph_of("resnet8")), torch.from_numpy(images_of(2))
    (conv,) = [node for node in network.nodes if node.name == "layer1.0.conv1"]
    tensor = conv.input[0]
    calls: list[int] = []
    network.substitutes[tensor] = lambda value: (calls.append(1), value * 0)[1]
    network.readers[(conv.name, 0)] = tensor
    with torch.inference_mode():
        seen = network.values(images, [tensor, conv.output[0]])
    bias = network.parameter(conv.input[2]).reshape(1, -1, 1, 1)
    assert calls == [1]
    assert seen[tensor].abs().max() > 0
    assert torch.allclose(seen[conv.output[0]], bias.expand_as(seen[conv.output[0]]))


def test_gradients_reach_the_initializers(graph_of):
    network = GraphNetwork(graph_of("resnet8"))
    network(torch.from_numpy(images_of(2))).square().sum().backward()
    weights = [node.input[1] for node in network.nodes if node.op_type in ("Conv", "Gemm")]
    assert all(network.parameter(name).grad.abs().sum() > 0 for name in weights)


@pytest.mark.parametrize("pads", [[0, 0, 1, 1], [1, 1, 1, 1], [0, 1, 0, 1]])
def test_uneven_padding_gives_what_onnx_runtime_gives(pads):
    weight = np.random.default_rng(1).standard_normal((2, 1, 3, 3), np.float32)
    nodes = [
        helper.make_node("Conv", ["images", "w"], ["c"], "conv", pads=pads, strides=[2, 2]),
        helper.make_node("MaxPool", ["c"], ["logits"], "pool", kernel_shape=[2, 2], pads=pads, strides=[1, 1]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    assert np.allclose(literal(model, images_of(3)), torch_logits(model, images_of(3)), atol=1e-5)


def test_an_unknown_operator_is_named():
    node = helper.make_node("CumSum", ["images"], ["logits"], "odd")
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("images", "logits")]
    with pytest.raises(InputError, match="operator CumSum of node 'odd'"):
        GraphNetwork(helper.make_model(helper.make_graph([node], "g", value[:1], value[1:])))
