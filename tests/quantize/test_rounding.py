from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import numpy_helper

from edgeres.graph.execute import GraphNetwork
from edgeres.quantize.auto import fidelity_of, logits_of
from edgeres.quantize.decision import Decision
from edgeres.quantize.insert import with_pairs
from edgeres.quantize.placement import placement_of
from edgeres.quantize.rounding import SoftWeight, rounded, stretches_of
from edgeres.quantize.scaling import channels_scaled
from edgeres.quantize.simulate import Simulation


def test_four_bit_weights_lose_less_than_rounded_to_nearest(onnx_of, images_of, bounds_of):
    model = onnx_of().proto
    placement, decision = placement_of(model), Decision(bounds_of(model))
    learned = rounded(model, placement, decision, images=images_of(128), bits=4, steps=150)
    nearest = Simulation(model, placement, decision, weight_bits=4).decision()
    assert _sqnr_db(model, placement, learned, images_of) > _sqnr_db(model, placement, nearest, images_of) + 2


def test_every_weight_goes_to_a_neighbour(onnx_of, images_of, bounds_of):
    model = onnx_of().proto
    placement = placement_of(model)
    learned = rounded(model, placement, Decision(bounds_of(model)), images=images_of(32), bits=4, steps=10)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert len(learned.weights) == len(placement.layers)
    for name, weight in learned.weights.items():
        steps = np.abs(weight.as_float - stored[name]).reshape(len(stored[name]), -1).max(1) / weight.scale
        assert np.abs(weight.values).max() <= 7
        assert steps.max() <= 1.001


def test_eight_bits_do_no_harm_after_channels_were_scaled(onnx_of, images_of, bounds_of, scaled_by):
    model = scaled_by(onnx_of().proto, {("layer1.0.conv1", 3): 100})
    placement = placement_of(model)
    scaled = channels_scaled(model, placement, Decision(bounds_of(model)), images=images_of(64))
    assert scaled.tensors
    learned = rounded(model, placement, scaled, images=images_of(64), steps=60)
    assert _sqnr_db(model, placement, learned, images_of) > _sqnr_db(model, placement, scaled, images_of) - 1


def test_it_starts_from_the_float_weight(onnx_of, bounds_of):
    model = onnx_of().proto
    simulation = Simulation(model, placement_of(model), Decision(bounds_of(model)), weight_bits=4)
    name = simulation.weights[0]
    soft = SoftWeight(simulation, name)
    shift = (soft.seen() - simulation.network.parameter(name)).abs().flatten(1).amax(1)
    assert (shift.detach() <= 0.011 * torch.from_numpy(soft.scale)).all()


@pytest.mark.parametrize("options", [{}, {"shortcut": "B"}, {"ordering": "full-preact"}], ids=str)
def test_stretches_hold_every_layer_once(onnx_of, options):
    model = onnx_of(**options).proto
    placement = placement_of(model)
    weights = [name for unit in stretches_of(model, placement) for name in unit.weights]
    assert len(weights) == len(set(weights)) == len(placement.layers)


def _sqnr_db(model, placement, decision, images_of):
    images = images_of(64, seed=9)
    network = GraphNetwork(with_pairs(model, placement, decision))
    return fidelity_of(logits_of(GraphNetwork(model), images), logits_of(network, images)).sqnr_db
