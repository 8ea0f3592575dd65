from __future__ import annotations

import pytest
import torch

from edgeres.core.spec import Preprocess
from edgeres.models import network_from, spec_from_arch
from edgeres.models.network import Network
from edgeres.train.learner import averaged_model
from edgeres.train.objectives import (
    decay_groups,
    soft_divergence,
)

GREY = Preprocess(mean=(0.5,), std=(0.5,))


def tiny(arch: str = "resnet8", **options: str | int) -> Network:
    torch.manual_seed(0)
    spec = spec_from_arch(arch, num_classes=3, input_shape=(1, 8, 8), preprocess=GREY, options={"width": 4, **options})
    return network_from(spec)


def test_the_soft_divergence_is_zero_for_equal_logits_and_its_gradient_that_of_soft_targets() -> None:
    torch.manual_seed(0)
    goal, logits = torch.randn(5, 4), torch.randn(5, 4, requires_grad=True)
    assert soft_divergence(goal, goal, 3.0).item() == pytest.approx(0, abs=1e-6)
    temperature = 3.0
    soft_divergence(logits, goal, temperature).backward()
    # d/dz T^2 KL = T (softmax(z / T) - softmax(g / T)) / N, Hinton et al. 2015, eq. 2 times T^2
    expected = temperature * ((logits / temperature).softmax(1) - (goal / temperature).softmax(1)) / 5
    torch.testing.assert_close(logits.grad, expected)


def test_every_learned_tensor_is_in_one_group_and_only_matrices_decay() -> None:
    network = tiny(shortcut="B")
    decayed, free = decay_groups(network, 0.1)
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    sizes = [[p.ndim for p in group["params"]] for group in (decayed, free)]
    assert set(sizes[0]) == {2, 4}
    assert set(sizes[1]) == {1}
    assert len(sizes[0]) + len(sizes[1]) == len(list(network.parameters()))


def test_frozen_parameters_are_left_out() -> None:
    network = tiny()
    network.fc.requires_grad_(False)  # type: ignore[operator, union-attr]
    held = {id(p) for group in decay_groups(network, 0.1) for p in group["params"]}  # type: ignore[attr-defined]
    assert not held & {id(p) for p in network.fc.parameters()}  # type: ignore[operator, union-attr]


def test_the_average_follows_its_closed_form_and_copies_counters() -> None:
    network, decay = tiny(), 0.3
    average = averaged_model(network, decay)
    weight = network.fc.weight
    expected = None
    for step in range(6):
        with torch.no_grad():
            weight.fill_(step)
            network.bn1.num_batches_tracked.fill_(step)
            network.bn1.running_mean.fill_(-step)
        average.update_parameters(network)
        keep = min(decay, (1 + step) / (10 + step))
        expected = step if expected is None else keep * expected + (1 - keep) * step
    result = average.module
    assert result.fc.weight[0, 0].item() == pytest.approx(expected)
    assert result.bn1.running_mean[0].item() == pytest.approx(-expected)
    assert result.bn1.num_batches_tracked.item() == 5
