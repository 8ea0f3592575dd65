"""PRACTISE's rule in tools/practise.py: adaptors around a gap, and the error that is left once they are trained."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn

from edgeres.core.errors import InputError
from edgeres.models import modules_of, network_from
from edgeres.models.family import ORDERINGS
from edgeres.models.weights import load_network

_SPEC = importlib.util.spec_from_file_location("practise", Path(__file__).parents[2] / "tools" / "practise.py")
assert _SPEC
assert _SPEC.loader
practise = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(practise)

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
def test_adaptors_equal_inserted_layers(spec_of, arch, options):
    spec = spec_of(arch, **options)
    network, names = gapped(spec)
    reference, images = copy.deepcopy(network), torch.randn(4, 1, 8, 8)
    matrices = practise.add_adaptors(network, names, [GAP])
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
    assert not torch.allclose(adapted, untouched, atol=1e-3)
    assert torch.allclose(reference(images), adapted, rtol=0, atol=1e-5 * float(adapted.detach().abs().max()))


def test_a_layer_between_two_gaps_gets_both_kinds(spec_of):
    spec = spec_of("resnet32")
    network, names = gapped(spec, ("layer1.1", "layer1.3"))
    matrices = practise.add_adaptors(network, names, ["layer1.1", "layer1.3"])
    parametrized = network.get_submodule("layer1.2.conv1.parametrizations.weight")
    assert len(list(parametrized.parameters())) == 3  # the weight, A before, A after
    assert len(matrices) == 2 * (1 + 2 + 1)


def test_shortcuts_other_stages_and_a_dropped_first_module_get_none(spec_of):
    spec = spec_of("resnet20", shortcut="B")
    network, names = gapped(spec, ("layer2.0",))
    practise.add_adaptors(network, names, ["layer2.0"])
    adapted = {name for name, _ in network.named_parameters() if "parametrizations" in name}
    assert {name.partition(".conv")[0] for name in adapted} == {"layer2.1", "layer2.2"}


def test_training_moves_nothing_but_the_matrices(spec_of):
    spec = spec_of("resnet20")
    network, names = gapped(spec)
    matrices = practise.add_adaptors(network, names, [GAP])
    before = {key: value.clone() for key, value in network.state_dict().items()}
    goal = torch.randn(4, 64, 2, 2)
    images = torch.randn(4, 1, 8, 8)
    losses = []

    def loss(batch):
        losses.append((network.features(batch) - goal).square().mean())
        return losses[-1]

    practise.train_adaptors(loss, [images] * 8, matrices, lr=0.02)
    assert losses[-1] < losses[0]
    moved = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
    layers = {f"layer2.{i}.conv{j}.parametrizations.weight" for i in (0, 2) for j in (1, 2)}
    assert moved == {f"{layer}.0.matrix" for layer in layers}


@pytest.fixture
def network(checkpoint_of, spec_of):
    return load_network(checkpoint_of(spec_of("resnet20")))


@pytest.fixture
def images():
    return torch.randn(70, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def lesion_error(network, images, gap):
    with torch.no_grad():
        goal = network.features(images)
        x = network.stem(images)
        for name, unit in network.units():
            x = unit.bypass(x) if name == gap else unit(x)
        return float((network.tail(x) - goal).square().mean())


@pytest.mark.parametrize("gap", ["layer1.1", "layer2.0", "layer3.2"])
def test_without_training_it_is_the_error_of_the_lesion(network, images, gap):
    score = practise.recoverability(network, images, [gap], iterations=0)[gap]
    assert score == pytest.approx(lesion_error(network, images, gap), rel=1e-4)


def test_training_adaptors_lowers_it_and_leaves_the_network_alone(network, images):
    before = {key: value.clone() for key, value in network.state_dict().items()}
    names = ["layer1.1", "layer1.2", "layer3.1"]
    untrained = practise.recoverability(network, images, names, iterations=0)
    trained = practise.recoverability(network, images, names, iterations=12)
    assert all(trained[name] < untrained[name] for name in names)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_a_module_that_does_nothing_is_recoverable_at_once(network, images):
    with torch.no_grad():
        network.get_submodule("layer2.2.bn2").weight.zero_()
        network.get_submodule("layer2.2.bn2").bias.zero_()
    assert practise.recoverability(network, images, ["layer2.2"], iterations=2)["layer2.2"] < 1e-9


def test_one_seed_gives_one_score(network, images):
    scores = [practise.recoverability(network, images, ["layer2.1"], iterations=3, seed=seed) for seed in (0, 0, 1)]
    assert scores[0] == scores[1] != scores[2]


def test_the_lowest_are_chosen_and_the_stages_first_are_no_candidates():
    assert practise.lowest({"a": 3.0, "b": 1.0, "c": 2.0}, 2) == ("b", "c")
    assert practise.inner_modules(["layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer2.2"]) == [
        "layer1.1",
        "layer2.1",
        "layer2.2",
    ]


def test_unknown_modules_are_refused(network, images):
    with pytest.raises(InputError, match=r"no module 'layer9\.1' to judge"):
        practise.recoverability(network, images, ["layer9.1"], iterations=0)
