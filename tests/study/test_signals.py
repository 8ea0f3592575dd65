"""Gradients at every module, and networks without batch norm."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from edgeres.models import network_from
from edgeres.study.gradients import Probe, gradient_norms, without_norm


@pytest.fixture
def network(spec_of):
    torch.manual_seed(0)
    return network_from(spec_of("resnet14"))


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(16, 1, 8, 8, generator=generator), torch.arange(16) % 10


def test_the_last_modules_gradient_is_that_of_pooling_and_classifier(network, batch):
    images, labels = batch
    norms = gradient_norms(network, images, labels)
    assert len(norms) == 1 + 6
    features = network.train().features(images).detach().requires_grad_()
    loss = nn.functional.cross_entropy(network.classify(features), labels)
    (gradient,) = torch.autograd.grad(loss, features)
    assert norms[-1] == pytest.approx(float(gradient.norm()), rel=1e-5)


def test_looking_at_a_network_changes_nothing_in_it(network, batch):
    network.eval()
    before = copy.deepcopy(network.state_dict())
    gradient_norms(network, *batch)
    assert all(bool((value == before[key]).all()) for key, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not network.training


def test_a_network_without_norms_adds_a_learned_number_to_each_channel(network, batch):
    without_norm(network)
    assert not any(isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)) for module in network.modules())
    images = batch[0]
    expected = nn.functional.conv2d(images, network.conv1.weight, padding=1)
    assert torch.equal(network.bn1(network.conv1(images)), expected)
    with torch.no_grad():
        network.bn1.bias[3] = 2.0
    assert torch.equal(network.bn1(network.conv1(images))[:, 3], expected[:, 3] + 2)


def test_a_linear_network_loses_its_norms_too(spec_of, batch):
    network = network_from(spec_of("fcresnet8"))
    without_norm(network)
    assert network(batch[0]).shape == (16, 10)


def test_a_probe_keeps_the_first_the_middle_and_the_last_epoch(network, batch):
    probe = Probe(*batch, 6)
    assert all(math.isnan(probe(network)) for _ in range(7))
    assert list(probe.norms) == [0, 1, 3, 6]
