from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import numpy_helper

from edgeres.graph.execute import GraphNetwork
from edgeres.quantize.auto import fidelity_of, logits_of
from edgeres.quantize.channel_classes import channel_classes
from edgeres.quantize.decision import Decision
from edgeres.quantize.placement import placement_of
from edgeres.quantize.scaling import _Scaled, channels_scaled
from edgeres.quantize.simulate import Simulation, replace_tensors


def images_of(n: int) -> np.ndarray:
    return np.random.default_rng(3).standard_normal((n, 1, 8, 8), np.float32)


@pytest.mark.parametrize("options", [{"shortcut": "A"}, {"shortcut": "B"}, {"ordering": "full-preact"}])
def test_scaled_channels_compute_the_same_in_float(options, onnx_of):
    model = onnx_of("resnet8", dynamic=True, **options).proto
    placement = placement_of(model)
    decision = Decision(dict.fromkeys(placement.observed, 3.0))
    simulation = _Scaled(model, placement, decision, classes=channel_classes(model))
    simulation.log_factors.data.uniform_(-1, 1)
    tensors = simulation.result(model, decision).tensors
    exact, scaled = GraphNetwork(model), GraphNetwork(model)
    replace_tensors(scaled, tensors)
    assert any(not np.array_equal(array, exact.parameter(name).detach().numpy()) for name, array in tensors.items())
    assert fidelity_of(logits_of(exact, images_of(8)), logits_of(scaled, images_of(8))).sqnr_db > 90


def with_a_loud_channel(model):
    """Channel 0 between the convolutions of layer1.0 four times as large; the same function in float."""
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor).copy()
        if tensor.name in ("layer1.0.conv1.weight", "layer1.0.conv1.bias"):
            array[0] *= 4
        if tensor.name == "layer1.0.conv2.weight":
            array[:, 0] /= 4
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return model


def test_what_is_learned_is_closer_to_float_than_what_was_given(onnx_of):
    model = with_a_loud_channel(onnx_of("resnet8", dynamic=True).proto)
    placement, images, network = placement_of(model), images_of(256), GraphNetwork(model)
    with torch.inference_mode():
        seen = network.values(torch.from_numpy(images), list(placement.observed))
    decision = Decision({name: float(value.abs().max()) for name, value in seen.items()})
    found = channels_scaled(model, placement, decision, images=images)
    reference = logits_of(network, images)
    before, after = (
        fidelity_of(reference, logits_of(Simulation(model, placement, one), images)).sqnr_db
        for one in (decision, found)
    )
    assert after > before + 0.5
