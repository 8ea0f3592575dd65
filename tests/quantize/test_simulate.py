from __future__ import annotations

import pytest
import torch

from edgeres.core.errors import InputError
from edgeres.graph.execute import GraphNetwork
from edgeres.quantize.decision import Decision
from edgeres.quantize.insert import with_pairs
from edgeres.quantize.placement import placement_of
from edgeres.quantize.simulate import Simulation, round_through


@pytest.mark.parametrize("options", [{}, {"shortcut": "B"}, {"ordering": "full-preact"}], ids=str)
def test_it_computes_what_the_written_graph_does(onnx_of, images_of, bounds_of, options):
    model = onnx_of(**options).proto
    placement, decision = placement_of(model), Decision(bounds_of(model))
    written = GraphNetwork(with_pairs(model, placement, decision))
    images = torch.from_numpy(images_of(16))
    with torch.no_grad():
        seen, wanted = Simulation(model, placement, decision)(images), written(images)
    noise = (seen - wanted).square().sum() / wanted.square().sum()
    assert noise < 1e-6


def test_everything_that_is_learned_gets_a_gradient(onnx_of, images_of, bounds_of):
    model = onnx_of().proto
    simulation = Simulation(model, placement_of(model), Decision(bounds_of(model, share=0.7)))
    simulation(torch.from_numpy(images_of(8))).square().sum().backward()
    learned = [simulation.network.parameter(name) for name in (*simulation.weights, *simulation.biases)]
    assert all(one.grad is not None and one.grad.abs().sum() > 0 for one in learned)
    assert all(one.grad is not None and float(one.grad) != 0 for one in simulation.log_amax.values())


def test_gradients_of_a_quantized_activation_are_those_of_a_learned_step_size(onnx_of, bounds_of):
    model = onnx_of().proto
    simulation = Simulation(model, placement_of(model), Decision(bounds_of(model)))
    name = model.graph.input[0].name
    quantize, log_amax, found = simulation.network.substitutes[name], simulation.log_amax[name], []
    for own in (True, False):
        x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * log_amax.detach().exp() / 2
        x.requires_grad_()
        scale = log_amax.exp() / 127
        rounded = quantize(x) if own else round_through((x / scale).clamp(-128, 127)) * scale
        found.append(torch.autograd.grad(rounded.mul(x.detach()).sum(), [x, log_amax]))
    assert float((found[0][0] == 0).float().mean()) > 0.01  # clipped
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-3)


def test_the_decision_reproduces_what_was_learned(onnx_of, images_of, bounds_of):
    model = onnx_of().proto
    placement = placement_of(model)
    simulation = Simulation(model, placement, Decision(bounds_of(model)))
    with torch.no_grad():
        for parameter in simulation.parameters():
            if parameter.is_floating_point():
                parameter.mul_(1.01)
        images = torch.from_numpy(images_of(8))
        wanted, written = simulation(images), GraphNetwork(with_pairs(model, placement, simulation.decision()))(images)
    assert (written - wanted).square().sum() / wanted.square().sum() < 1e-6


def test_a_missing_bound_is_named(onnx_of):
    model = onnx_of().proto
    with pytest.raises(InputError, match="no clipping bound for tensor 'images'"):
        Simulation(model, placement_of(model), Decision({}))
