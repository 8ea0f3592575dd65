from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edgeres.graph.execute import GraphNetwork
from edgeres.quantize.auto import fidelity_of, logits_of
from edgeres.quantize.channel_classes import FIXED, channel_classes, far_out, outlier_factors
from edgeres.quantize.decision import Decision
from edgeres.quantize.improving import channels_scaled
from edgeres.quantize.placement import placement_of
from edgeres.quantize.simulate import Simulation


def images_of(n: int) -> np.ndarray:
    return np.random.default_rng(3).standard_normal((n, 1, 8, 8), np.float32)


def decibels_of(model):
    """Logit SQNR of the largest values as bounds, and after `channels_scaled`."""
    placement, images, network = placement_of(model), images_of(256), GraphNetwork(model)
    with torch.inference_mode():
        seen = network.values(torch.from_numpy(images), list(placement.observed))
    given = Decision({name: float(value.abs().max()) for name, value in seen.items()})
    found = channels_scaled(model, placement, given, images=images).decision
    reference = logits_of(network, images)
    return [
        fidelity_of(reference, logits_of(Simulation(model, placement, one), images)).sqnr_db for one in (given, found)
    ]


def test_what_is_learned_is_closer_to_float_than_what_was_given(onnx_of, scaled_by):
    model = scaled_by(onnx_of("resnet8", dynamic=True).proto, {("layer1.0.conv1", 0): 4})
    before, after = decibels_of(model)
    assert after > before + 0.5


def test_uneven_channels_lose_less_to_rounding(onnx_of, scaled_by):
    model = onnx_of("resnet8", dynamic=True).proto
    classes = channel_classes(model)
    draws, labels = np.random.default_rng(0), {int(label) for one in classes.values() for label in one} - {FIXED}
    homes = {int(label): (name, channel) for name, one in classes.items() for channel, label in enumerate(one)}
    uneven = {homes[label]: float(np.exp(1.5 * draws.normal())) for label in sorted(labels)}
    before, after = decibels_of(scaled_by(model, uneven))
    assert after > before + 3


OUTLIERS = {
    "one large": {("layer1.0.conv1", 3): 500},
    "one small": {("layer2.0.conv1", 5): 1 / 500},
    "several": {("layer1.0.conv1", 2): 60, ("layer2.0.conv1", 9): 1 / 300, ("layer3.0.conv1", 11): 1000},
    "some, by little": {(f"layer{stage}.0.conv1", channel): 12 for stage in (1, 2, 3) for channel in (4, 7)},
    "of the residual stream": {("layer1.0.add", 3): 500, ("layer2.0.add", 20): 12},
}


@pytest.mark.parametrize("factors", OUTLIERS.values(), ids=OUTLIERS)
def test_outliers_cost_little(onnx_of, scaled_by, factors):
    _, even = decibels_of(onnx_of("resnet8", dynamic=True).proto)
    _, found = decibels_of(scaled_by(onnx_of("resnet8", dynamic=True).proto, factors))
    assert found > even - 2


@pytest.mark.parametrize(
    ("row", "column", "factor"),
    [
        (100, 1 / 100, 100),  # scaled by 100
        (1 / 100, 100, 1 / 100),
        (9, 1, 1),  # sqrt(row / column) is 3: a share a trained channel may have
        (1, 9, 1),
        (100, 1, 10),
        (1, 100, 1 / 10),
        (1, 1e-4, 1),  # almost dead, and in nobody's way
        (1e-4, 1, 1),
    ],
)
def test_the_factor_of_an_outlier_is_no_larger_than_its_harm(row, column, factor):
    made, read = np.ones((3, 1, 1, 1), np.float32), np.ones((1, 3, 1, 1), np.float32)
    made[1], read[0, 1] = row, column
    nodes = [helper.make_node("Conv", ["x", "a"], ["h"]), helper.make_node("Conv", ["h", "b"], ["y"])]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy")
    stored = [numpy_helper.from_array(made, "a"), numpy_helper.from_array(read, "b")]
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y], stored))
    classes = channel_classes(model)
    assert outlier_factors(model, classes)[classes["h"]] == pytest.approx([1, factor, 1])


def test_without_outliers_it_begins_where_it_was_told_to(onnx_of):
    model = onnx_of("resnet20").proto
    classes = channel_classes(model)
    assert (outlier_factors(model, classes) == 1).all()
    assert far_out(model, classes) == []


def test_outliers_are_found_where_they_are(onnx_of, scaled_by):
    model = scaled_by(onnx_of("resnet20").proto, OUTLIERS["several"])
    found = far_out(model, channel_classes(model))
    assert [(tensor, channel) for tensor, channel, _ in found] == [
        ("layer3.0.conv1", 11),
        ("layer2.0.conv1", 9),
        ("layer1.0.conv1", 2),
    ]
    assert [factor for _, _, factor in found] == pytest.approx([1000, 300, 60], rel=0.6)
