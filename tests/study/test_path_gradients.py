"""The gradients of all paths sum to the network's gradient, and those of one length to the recursion's."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
import torch.nn.functional as F

from edgeres.models.weights import load_network
from edgeres.study.path_gradients import PathGradients

ORDERINGS = ("original", "bn-after-add", "relu-before-add", "relu-only-preact", "full-preact")


def _network(checkpoint_of, spec):
    network = load_network(checkpoint_of(spec)).double()
    images = torch.randn(3, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return network, images, torch.tensor([1, 7, 3])


@pytest.mark.parametrize("ordering", ORDERINGS)
def test_all_lengths_together_are_the_gradient_of_the_network(checkpoint_of, spec_of, ordering):
    network, images, labels = _network(checkpoint_of, spec_of("resnet14", ordering=ordering))
    leaf = images.clone().requires_grad_()
    (whole,) = torch.autograd.grad(F.cross_entropy(network(leaf), labels, reduction="sum"), leaf)
    by_length = PathGradients(network, images, labels).by_length()
    assert len(by_length) == 7
    torch.testing.assert_close(sum(by_length), whole)


def test_the_recursion_is_the_sum_over_single_paths(checkpoint_of, spec_of):
    network, images, labels = _network(checkpoint_of, spec_of("resnet14"))
    gradients = PathGradients(network, images, labels)
    for length, summed in enumerate(gradients.by_length()):
        one_by_one = [gradients.along(path) for path in combinations(range(gradients.modules), length)]
        torch.testing.assert_close(torch.stack(one_by_one).sum(0), summed)


def test_a_path_through_no_module_goes_along_the_shortcuts(checkpoint_of, spec_of):
    network, images, labels = _network(checkpoint_of, spec_of("resnet8"))
    leaf = images.clone().requires_grad_()
    x = network.stem(leaf)
    for _, unit in network.units():
        x = unit.after(unit.shortcut(x) + unit.branch(x).detach())
    (expected,) = torch.autograd.grad(F.cross_entropy(network.classify(x), labels, reduction="sum"), leaf)
    torch.testing.assert_close(PathGradients(network, images, labels).along(()), expected)


def test_a_dropped_module_is_on_no_path(checkpoint_of, spec_of):
    spec = spec_of("resnet14").without(("layer1.1", "layer2.0"))
    network, images, labels = _network(checkpoint_of, spec)
    gradients = PathGradients(network, images, labels)
    assert gradients.modules == 4
    leaf = images.clone().requires_grad_()
    (whole,) = torch.autograd.grad(F.cross_entropy(network(leaf), labels, reduction="sum"), leaf)
    torch.testing.assert_close(sum(gradients.by_length()), whole)
    torch.testing.assert_close(gradients.along(range(4)), gradients.by_length()[-1])


@pytest.mark.parametrize("arch", ["plain8", "vgg11"])
def test_a_network_without_shortcuts_has_no_paths(checkpoint_of, spec_of, arch):
    network, images, labels = _network(checkpoint_of, spec_of(arch))
    with pytest.raises(TypeError, match=r"layer1\.0 has no shortcut"):
        PathGradients(network, images, labels)
