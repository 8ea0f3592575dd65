"""Recoverability of a module: what is left of the error once adaptors around the gap are trained."""

from __future__ import annotations

import pytest
import torch

from edgeres.core.errors import InputError
from edgeres.models.weights import load_network
from edgeres.prune.practise import inner_modules, lowest, recoverability


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
    score = recoverability(network, images, [gap], iterations=0)[gap]
    assert score == pytest.approx(lesion_error(network, images, gap), rel=1e-4)


def test_training_adaptors_lowers_it_and_leaves_the_network_alone(network, images):
    before = {key: value.clone() for key, value in network.state_dict().items()}
    names = ["layer1.1", "layer1.2", "layer3.1"]
    untrained = recoverability(network, images, names, iterations=0)
    trained = recoverability(network, images, names, iterations=12)
    assert all(trained[name] < untrained[name] for name in names)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_a_module_that_does_nothing_is_recoverable_at_once(network, images):
    with torch.no_grad():
        network.get_submodule("layer2.2.bn2").weight.zero_()
        network.get_submodule("layer2.2.bn2").bias.zero_()
    assert recoverability(network, images, ["layer2.2"], iterations=2)["layer2.2"] < 1e-9


def test_the_error_is_divided_by_the_latency_saved(network, images):
    names = ["layer1.1", "layer3.2"]
    alone = recoverability(network, images, names, iterations=1)
    saved = {"layer1.1": 0.5, "layer3.2": 0.1}
    assert recoverability(network, images, names, saved=saved, iterations=1) == pytest.approx(
        {name: alone[name] / saved[name] for name in names}
    )


def test_one_seed_gives_one_score(network, images):
    scores = [recoverability(network, images, ["layer2.1"], iterations=3, seed=seed) for seed in (0, 0, 1)]
    assert scores[0] == scores[1] != scores[2]


def test_the_lowest_are_chosen_and_the_stages_first_are_no_candidates():
    assert lowest({"a": 3.0, "b": 1.0, "c": 2.0}, 2) == ("b", "c")
    assert inner_modules(["layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer2.2"]) == [
        "layer1.1",
        "layer2.1",
        "layer2.2",
    ]


def test_unknown_modules_and_free_ones_are_refused(network, images):
    with pytest.raises(InputError, match=r"no module 'layer9\.1' to judge"):
        recoverability(network, images, ["layer9.1"], iterations=0)
    with pytest.raises(InputError, match=r"layer1\.1 saves 0 of the latency"):
        recoverability(network, images, ["layer1.1"], saved={}, iterations=0)
