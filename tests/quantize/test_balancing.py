from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch

from edgeres.graph.execute import GraphNetwork
from edgeres.quantize.auto import fidelity_of, logits_of
from edgeres.quantize.balancing import Spread, balanced
from edgeres.quantize.channel_classes import FIXED, channel_classes, scaled
from edgeres.quantize.decision import Decision
from edgeres.quantize.improving import channels_scaled, tuned
from edgeres.quantize.placement import placement_of
from edgeres.quantize.simulate import replace_tensors


@pytest.mark.parametrize("options", [{"shortcut": "A"}, {"shortcut": "B"}, {"ordering": "full-preact"}])
def test_scaled_channels_compute_the_same_in_float(options, onnx_of, images_of):
    model = onnx_of("resnet8", dynamic=True, **options).proto
    classes = channel_classes(model)
    factors = np.exp(np.random.default_rng(0).uniform(-1, 1, 1 + max(one.max() for one in classes.values())))
    factors[FIXED] = 1
    tensors = scaled(model, classes, factors.astype(np.float32))
    exact, changed = GraphNetwork(model), GraphNetwork(model)
    replace_tensors(changed, tensors)
    assert any(not np.array_equal(array, exact.parameter(name).detach().numpy()) for name, array in tensors.items())
    assert fidelity_of(logits_of(exact, images_of(8)), logits_of(changed, images_of(8))).sqnr_db > 90


def test_the_noise_of_a_bound_is_that_of_rounding_and_clipping():
    x = torch.rand(1000, 1, 1, generator=torch.Generator().manual_seed(0)) + 1e-3
    spread = Spread(0, 1)
    spread.add(x, torch.full_like(x, 2.0))
    noise = spread.noise()[0]
    assert noise[-1] == pytest.approx(4 * 1000 / 12 / 127**2, rel=0.05)  # of the bound 1: rounding alone, times g^2
    clipped = float((x - 0.5).clamp_min(0).square().sum())
    assert noise[-1 - 16] == pytest.approx(4 * (3 * clipped + 500 * 0.25 / 12 / 127**2), rel=0.05)


def test_some_places_of_a_large_tensor_stand_for_all_of_it():
    x = torch.rand(1000, 1, 1000, generator=torch.Generator().manual_seed(0)) + 1e-3
    noise = []
    for one in (x, x[:, :, :50]):
        spread = Spread(0, 1)
        spread.add(one, torch.ones_like(one))
        noise.append(spread.noise()[0])
    assert noise[0][-40:] == pytest.approx(20 * noise[1][-40:], rel=0.1)


def test_a_factor_follows_the_size_of_its_channel(onnx_of, images_of, bounds_of, scaled_by):
    model = onnx_of("resnet8", dynamic=True).proto
    changed = scaled_by(deepcopy(model), {("layer1.0.conv1", 3): 1.5})
    ratios = []
    for one in (model, changed):
        classes = channel_classes(one)
        decision = Decision(bounds_of(one))
        _, factors = balanced(one, placement_of(one), decision, classes=classes, images=images_of(64))
        own = factors[classes["layer1.0.conv1"]]
        ratios.append(own[3] / np.median(own))
    assert ratios[1] / ratios[0] == pytest.approx(1.5, rel=0.1)


def test_what_is_zero_on_every_image_is_left_as_it_was(onnx_of, bounds_of):
    model = onnx_of("resnet8", dynamic=True).proto
    nothing = np.zeros((4, 1, 8, 8), np.float32)
    bounds, _ = balanced(
        model, placement_of(model), Decision(bounds_of(model)), classes=channel_classes(model), images=nothing
    )
    assert model.graph.input[0].name not in bounds


def test_tuning_is_kept_only_where_it_is_closer_to_float(onnx_of, images_of, bounds_of, monkeypatch):
    model = onnx_of("resnet8", dynamic=True).proto
    placement, start, images = placement_of(model), Decision(bounds_of(model)), images_of(256)
    found, again = (tuned(model, placement, start, images=images, passes=800).decision for _ in range(2))
    assert found is not start
    assert again.amax == found.amax
    monkeypatch.setattr("edgeres.quantize.improving.WEIGHT_RATE", 1.0)
    assert tuned(model, placement, start, images=images, passes=800).decision is start


def test_channels_and_tuning_are_chosen_on_the_same_images(onnx_of, images_of, bounds_of, monkeypatch):
    model = onnx_of("resnet8", dynamic=True).proto
    placement, start, images, seen = placement_of(model), Decision(bounds_of(model)), images_of(64), []
    monkeypatch.setattr("edgeres.quantize.improving._ENOUGH", 8)
    monkeypatch.setattr("edgeres.quantize.improving.closest_of", lambda *_, **given: seen.append(given["images"]))
    channels_scaled(model, placement, start, images=images)
    tuned(model, placement, start, images=images, passes=32)
    assert len(seen[0]) == 16
    assert np.array_equal(*seen)
