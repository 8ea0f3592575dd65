from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edgeres.graph.execute import GraphNetwork
from edgeres.quantize.channel_classes import FIXED, channel_classes, scaled
from edgeres.quantize.simulate import replace_tensors

VARIANTS = [{}, {"shortcut": "B"}, {"shortcut": "C"}, {"ordering": "full-preact"}]


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_any_factors_of_the_classes_leave_float_logits_alone(onnx_of, images_of, options):
    assert scaled_exactly(onnx_of(**options).proto, images_of(16)) > 20


def scaled_exactly(model, images):
    """Number of classes that are free; each got a factor of its own and the float outputs stayed."""
    classes, inputs = channel_classes(model), torch.from_numpy(images)
    n = 1 + max(int(one.max()) for one in classes.values())
    factors = np.exp(np.random.default_rng(0).normal(size=n)).astype(np.float32)
    factors[FIXED] = 1
    before, after = GraphNetwork(model), GraphNetwork(model)
    replace_tensors(after, scaled(model, classes, factors))
    with torch.no_grad():
        torch.testing.assert_close(after(inputs), before(inputs), rtol=1e-4, atol=1e-4)
    return len({int(label) for one in classes.values() for label in one} - {FIXED})


def chain_of(*weights, shapes, **attributes):
    """1x1 convolutions one after the other, a ReLU between them; the attributes are the second one's."""
    draws, nodes, last = np.random.default_rng(1), [], "x"
    for i, weight in enumerate(weights):
        own = attributes if i == 1 else {}
        nodes += [
            helper.make_node("Conv", [last, weight], [f"c{i}"], **own),
            helper.make_node("Relu", [f"c{i}"], [f"r{i}"]),
        ]
        last = f"r{i}"
    stored = [
        numpy_helper.from_array(draws.standard_normal((*shape, 1, 1), np.float32), name)
        for name, shape in shapes.items()
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", last))
    return helper.make_model(helper.make_graph(nodes, "g", [x], [y], stored))


@pytest.mark.parametrize(("group", "columns"), [(2, 2), (4, 1)], ids=["grouped", "depthwise"])
def test_channels_that_a_grouped_convolution_reads_stay_as_they_are(group, columns):
    shapes = {"a": (4, 2), "b": (4, columns), "c": (3, 4)}
    model = chain_of("a", "b", "c", shapes=shapes, group=group)
    assert (channel_classes(model)["c0"] == FIXED).all()
    assert scaled_exactly(model, np.random.default_rng(2).standard_normal((3, 2, 4, 4), np.float32)) == 4


def test_a_weight_that_two_layers_read_stays_as_it_is():
    model = chain_of("w", "w", "b", "c", shapes={"w": (2, 2), "b": (4, 2), "c": (3, 4)})
    assert scaled_exactly(model, np.random.default_rng(2).standard_normal((3, 2, 4, 4), np.float32)) == 4


def test_modules_of_a_stage_share_their_channels(onnx_of):
    classes = channel_classes(onnx_of("resnet20").proto)
    assert (classes["layer1.0.add"] == classes["layer1.2.add"]).all()
    assert (classes["layer2.0.add"][8:24] == classes["layer1.2.relu_1"]).all()
    assert (classes["layer2.0.add"][:8] > FIXED).all()
    assert not set(classes["layer1.0.conv1"]) & set(classes["layer1.0.add"])
    assert (classes["logits"] == FIXED).all()


def test_what_is_not_understood_stays_as_it_is():
    weight = numpy_helper.from_array(np.ones((2, 1, 1, 1), np.float32), "w")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="a"),
        helper.make_node("Sigmoid", ["a"], ["b"], name="b"),
        helper.make_node("Relu", ["b"], ["y"], name="y"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 1, 4, 4))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 2, 4, 4))
    classes = channel_classes(helper.make_model(helper.make_graph(nodes, "g", [x], [y], [weight])))
    assert {name: one.tolist() for name, one in classes.items()} == {"a": [FIXED, FIXED]}
