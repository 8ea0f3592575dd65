from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from onnx import numpy_helper

from edgeres.core.errors import InputError
from edgeres.graph.blocks import units_in
from edgeres.graph.execute import GraphNetwork
from edgeres.graph.view import GraphView
from edgeres.quantize.decision import Decision
from edgeres.quantize.fidelity import Fidelity
from edgeres.quantize.insert import with_pairs
from edgeres.quantize.placement import Options, observed_of, placement_of
from edgeres.quantize.simulate import QuantizedNetwork

IMAGES = np.random.default_rng(0).standard_normal((70, 1, 8, 8), np.float32)
UNITS = ("conv1", "layer1.0", "layer2.0", "layer3.0", "fc")
VARIANTS = [
    {"shortcut": "A"},
    {"shortcut": "B"},
    {"ordering": "full-preact", "shortcut": "A"},
    {"ordering": "bn-after-add"},
]


def decision_of(model, **more) -> Decision:
    return Decision(dict.fromkeys(observed_of(model), 4.0), **more)


@pytest.mark.covering(1)
@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize("keep", [(), ("layer2.0",), ("conv1", "layer3.0"), ("fc", "layer1.0")])
def test_it_computes_what_the_written_graph_computes(onnx_of, options, keep):
    model = onnx_of(**options).proto
    written = with_pairs(model, placement_of(model, Options(keep=tuple(keep))), decision_of(model))
    x = torch.from_numpy(IMAGES[:8])
    with torch.inference_mode():
        expected = GraphNetwork(written)(x)
    assert torch.equal(QuantizedNetwork(model, Options(), decision_of(model)).logits(x, frozenset(keep)), expected)


def test_tensors_of_the_decision_are_used(onnx_of):
    model = onnx_of().proto
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    weight = arrays["layer2.0.conv1.weight"] * np.float32(0.9)
    bias = arrays["layer2.0.conv1.bias"] + np.float32(0.1)
    decision = decision_of(model, tensors={"layer2.0.conv1.weight": weight, "layer2.0.conv1.bias": bias})
    x = torch.from_numpy(IMAGES[:8])
    with torch.inference_mode():
        expected = GraphNetwork(with_pairs(model, placement_of(model), decision))(x)
    assert torch.equal(QuantizedNetwork(model, Options(), decision).logits(x, frozenset()), expected)


@pytest.mark.parametrize("options", VARIANTS)
def test_starting_at_a_unit_gives_what_the_whole_network_gives(onnx_of, options):
    model = onnx_of(**options).proto
    network, x = QuantizedNetwork(model, Options(), decision_of(model)), torch.from_numpy(IMAGES[:8])
    everything = frozenset(network.units)
    floats, integers = network.reached(x, everything), network.reached(x, frozenset())
    for unit in network.units:
        alone = everything - {unit}
        assert torch.equal(network.logits_from(floats, unit, alone), network.logits(x, alone))
        assert torch.equal(network.logits_from(integers, unit, frozenset({unit})), network.logits(x, frozenset({unit})))


def test_units_are_the_modules_and_the_layers_outside_of_them(onnx_of):
    assert tuple(units_in(GraphView(onnx_of().proto))) == UNITS


def test_units_left_float_in_any_case_are_not_asked_about(onnx_of):
    model = onnx_of().proto
    options = Options(stem=False, keep=("layer2.0",))
    assert QuantizedNetwork(model, options, decision_of(model)).units == ("layer1.0", "layer3.0", "fc")


def test_a_unit_whose_range_is_far_too_wide_hurts_most_alone(onnx_of):
    model = onnx_of().proto
    network = QuantizedNetwork(model, Options(), Decision({**decision_of(model).amax, "layer2.0.relu": 4000.0}))
    alone = network.alone(network.units, network.batches(IMAGES))
    assert min(alone, key=lambda unit: alone[unit].sqnr_db) == "layer2.0"
    assert {one.n for one in alone.values()} == {len(IMAGES)}


def test_a_tensor_without_a_bound_is_named(onnx_of):
    model = onnx_of().proto
    amax = {name: 1.0 for name in observed_of(model) if name != "layer2.0.relu"}
    network = QuantizedNetwork(model, Options(), Decision(amax))
    with pytest.raises(InputError, match=r"no clipping bound for tensor 'layer2\.0\.relu'"):
        network.logits(torch.from_numpy(IMAGES[:4]), frozenset())


def test_a_flip_costs_the_difference_of_the_probabilities():
    fidelity = Fidelity()
    before = torch.tensor([[0.6, 0.4], [0.9, 0.1]]).log()
    after = torch.tensor([[0.4, 0.6], [0.9, 0.1]]).log()
    fidelity.add(before, after)
    assert fidelity.loss == pytest.approx(100 * 0.2 / 2, abs=1e-4)
    assert fidelity.disagreement.value == 0.5
    assert fidelity.disagreement.high > 0.5


def test_equal_logits_lose_nothing_and_still_leave_doubt():
    fidelity = Fidelity()
    fidelity.add(torch.eye(3), torch.eye(3))
    assert math.isinf(fidelity.sqnr_db)
    assert fidelity.loss == 0
    assert fidelity.loss_half_width > 0
