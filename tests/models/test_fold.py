from __future__ import annotations

import pytest
import torch
from torch import nn

from edgeres.models.family import ORDERINGS
from edgeres.models.weights import fold_batch_norms, load_network


def norms_of(network: nn.Module) -> list[nn.Module]:
    return [module for module in network.modules() if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))]


@pytest.mark.parametrize("ordering", ORDERINGS)
@pytest.mark.parametrize("arch", ["resnet8", "fcresnet8"])
def test_folding_keeps_the_logits(arch, ordering, spec_of, checkpoint_of):
    network = load_network(checkpoint_of(spec_of(arch, ordering=ordering, shortcut="B")))
    images = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        before = network(images)
        fold_batch_norms(network)
        after = network(images)
    assert (after - before).abs().max() < 1e-5 * before.abs().max()


@pytest.mark.parametrize(
    ("ordering", "left"),
    [
        ("original", 0),
        ("relu-before-add", 0),
        ("relu-only-preact", 0),
        ("bn-after-add", 3),  # one after every addition
        ("full-preact", 3),  # the first of modules 2 and 3, and the last of the network
    ],
)
def test_only_batch_norms_behind_an_addition_stay(ordering, left, spec_of, checkpoint_of):
    network = load_network(checkpoint_of(spec_of("resnet8", ordering=ordering, shortcut="B")))
    fold_batch_norms(network)
    assert len(norms_of(network)) == left


def test_a_batch_norm_behind_the_shortcut_of_a_dropped_module_is_folded_into_its_projection(spec_of, checkpoint_of):
    spec = spec_of("resnet8", ordering="full-preact", shortcut="B").without(("layer3.0",))
    network = load_network(checkpoint_of(spec))
    folded = fold_batch_norms(network)
    assert folded.index("layer3.0.downsample.1") < folded.index("bn_last")


def test_a_layer_read_by_others_is_not_folded():
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            return self.bn(y) + y

    assert fold_batch_norms(Shared()) == []


def test_a_layer_called_twice_is_not_folded():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.bn(self.conv(self.conv(x)))

    assert fold_batch_norms(Twice()) == []
