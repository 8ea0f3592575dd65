"""Adaptors are 1x1 convolutions, trained alone, of which nothing is left in the network."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from edgeres.models import modules_of, network_from
from edgeres.models.family import ORDERINGS
from edgeres.models.weights import expected_shapes
from edgeres.prune.adaptors import add_adaptors, merge_adaptors, train_adaptors

GAP = "layer2.1"


def gapped(spec, gaps=(GAP,)):
    torch.manual_seed(0)
    return network_from(spec.without(gaps)).eval(), [info.name for info in modules_of(spec)]


def stir(matrices):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for matrix in matrices:
            matrix += 0.1 * torch.randn(matrix.shape, generator=generator)


def as_layer(matrix, like):
    """A real layer that mixes channels by `matrix`, of the kind of `like`."""
    if isinstance(like, nn.Linear):
        layer = nn.Linear(*matrix.shape, bias=False)
        layer.weight.data = matrix
        return layer
    layer = nn.Conv2d(*matrix.shape, 1, bias=False)
    layer.weight.data = matrix[:, :, None, None]
    return layer


@pytest.mark.parametrize(
    ("arch", "options"),
    [
        *[("resnet20", {"ordering": ordering}) for ordering in ORDERINGS],
        ("resnet29", {"bottleneck": True}),
        ("fcresnet20", {}),
    ],
)
def test_merged_they_equal_inserted_layers(spec_of, arch, options):
    spec = spec_of(arch, **options)
    network, names = gapped(spec)
    reference, images = copy.deepcopy(network), torch.randn(4, 1, 8, 8)
    matrices = add_adaptors(network, names, [GAP])
    untouched = network(images)
    assert torch.allclose(untouched, reference(images), rtol=0, atol=1e-5)
    stir(matrices)
    adapted = network(images)
    convs = range(1, (3 if arch == "resnet29" else 2) + 1)
    places = [(0, conv) for conv in convs] + [(2, conv) for conv in convs]
    for (module, conv), matrix in zip(places, matrices, strict=True):
        name = f"layer2.{module}.conv{conv}"
        layer = reference.get_submodule(name)
        adaptor = as_layer(matrix.detach(), layer)
        reference.set_submodule(name, nn.Sequential(*([layer, adaptor] if module == 0 else [adaptor, layer])))
    merge_adaptors(network)
    assert not torch.allclose(adapted, untouched, atol=1e-3)
    for logits in (network(images), reference(images)):
        assert torch.allclose(logits, adapted, rtol=0, atol=1e-5 * float(adapted.detach().abs().max()))


def test_keys_and_shapes_are_the_original_ones_again(spec_of):
    spec = spec_of("resnet20")
    network, names = gapped(spec)
    add_adaptors(network, names, [GAP])
    merge_adaptors(network)
    assert {key: tuple(v.shape) for key, v in network.state_dict().items()} == expected_shapes(spec.without((GAP,)))
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_a_layer_between_two_gaps_gets_both_kinds(spec_of):
    spec = spec_of("resnet32")
    network, names = gapped(spec, ("layer1.1", "layer1.3"))
    matrices = add_adaptors(network, names, ["layer1.1", "layer1.3"])
    parametrized = network.get_submodule("layer1.2.conv1.parametrizations.weight")
    assert len(list(parametrized.parameters())) == 3  # the weight, A before, A after
    assert len(matrices) == 2 * (1 + 2 + 1)


def test_shortcuts_other_stages_and_a_dropped_first_module_get_none(spec_of):
    spec = spec_of("resnet20", shortcut="B")
    network, names = gapped(spec, ("layer2.0",))
    add_adaptors(network, names, ["layer2.0"])
    adapted = {name for name, _ in network.named_parameters() if "parametrizations" in name}
    assert {name.partition(".conv")[0] for name in adapted} == {"layer2.1", "layer2.2"}


def test_training_moves_nothing_but_the_matrices(spec_of):
    spec = spec_of("resnet20")
    network, names = gapped(spec)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    matrices = add_adaptors(network, names, [GAP])
    goal = torch.randn(4, 64, 2, 2)
    images = torch.randn(4, 1, 8, 8)
    losses = []

    def loss(batch):
        losses.append((network.features(batch) - goal).square().mean())
        return losses[-1]

    train_adaptors(loss, [images] * 8, matrices, lr=0.02)
    assert losses[-1] < losses[0]
    merge_adaptors(network)
    moved = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
    assert moved == {f"layer2.{i}.conv{j}.weight" for i in (0, 2) for j in (1, 2)}
