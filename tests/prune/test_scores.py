"""Published criteria: closed forms on networks where the answer is known."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from edgeres.evaluate.tally import Tally, reference_batches
from edgeres.models.weights import load_network
from edgeres.prune.scores import CRITERIA, SCORES


@pytest.fixture
def network(checkpoint_of, spec_of):
    return load_network(checkpoint_of(spec_of("resnet14", shortcut="B")))


@pytest.fixture
def batches(network):
    generator = torch.Generator().manual_seed(0)
    pairs = [
        (torch.randn(n, 1, 8, 8, generator=generator), torch.randint(0, 10, (n,), generator=generator)) for n in (4, 3)
    ]
    return reference_batches(network, pairs)


def names_of(network):
    return [name for name, _ in network.units()]


def silence(network, name):
    with torch.no_grad():
        norm = network.get_submodule(f"{name}.bn2")
        norm.weight.zero_()
        norm.bias.zero_()


@pytest.mark.parametrize("criterion", ["block-influence", "taylor"])
@pytest.mark.parametrize("name", ["layer1.1", "layer2.0"])
def test_a_module_that_adds_nothing_scores_nothing(network, batches, criterion, name):
    silence(network, name)
    scores = CRITERIA[criterion](network, batches, names_of(network), 0)
    assert scores[name] == pytest.approx(0, abs=1e-6)
    assert min(scores, key=scores.__getitem__) == name
    assert list(scores) == names_of(network)


def test_block_influence_is_one_minus_the_mean_cosine_over_images(network, batches):
    scores = CRITERIA["block-influence"](network, batches, ["layer1.1"], 0)
    images = torch.cat([batch.images for batch in batches])
    units = dict(network.units())
    with torch.inference_mode():
        x = units["layer1.0"](network.stem(images))
        y = units["layer1.1"](x)
    cosines = [float((a * b).sum() / (a.norm() * b.norm())) for a, b in zip(x.double(), y.double(), strict=True)]
    assert scores["layer1.1"] == pytest.approx(1 - sum(cosines) / len(cosines), rel=1e-4)


def test_taylor_is_the_slope_of_the_loss_in_the_gate(network, batches):
    scores = CRITERIA["taylor"](network, batches, names_of(network), 0)
    network.double()
    slopes = []
    for batch in batches:
        for image, label in zip(batch.images.double(), batch.labels, strict=True):
            slopes.append(abs(slope(network, "layer2.1", image[None], label[None])))
    assert scores["layer2.1"] == pytest.approx(sum(slopes) / len(slopes), rel=1e-3)


@torch.inference_mode()
def slope(network, gated, image, label, step=1e-5):
    losses = []
    for gate in (1 - step, 1 + step):
        x = network.stem(image)
        for name, unit in network.units():
            x = unit.bypass(x) + gate * (unit(x) - unit.bypass(x)) if name == gated else unit(x)
        losses.append(F.cross_entropy(network.classify(network.tail(x)), label))
    return float(losses[1] - losses[0]) / (2 * step)


def test_l1_is_the_mean_weight_of_the_module_without_its_shortcut(network, batches):
    scores = CRITERIA["l1"](network, batches, names_of(network), 0)
    weights = [network.get_submodule(f"layer2.0.conv{i}").weight for i in (1, 2)]
    expected = float(torch.cat([w.detach().flatten() for w in weights]).abs().mean())
    assert scores["layer2.0"] == pytest.approx(expected)


def test_random_depends_on_the_seed_alone(network, batches):
    names = names_of(network)
    first, same, other = (CRITERIA["random"](network, batches, names, seed) for seed in (0, 0, 1))
    assert first == same != other
    assert list(first) == names


def test_accuracy_breaks_ties_by_loss_and_never_lets_it_outweigh_an_image():
    def tally(correct, loss):
        return Tally(n=100, correct_top1=correct, loss_sum=100 * loss)

    score = SCORES["accuracy"]
    assert score(tally(90, 9.0)) < score(tally(89, 0.1))
    assert score(tally(90, 0.3)) < score(tally(90, 0.4))
    assert score(tally(90, 0.3)) == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_criterion_leaves_the_network_as_it_was(network, batches, criterion):
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    CRITERIA[criterion](network, batches, names_of(network), 0)
    assert all(torch.equal(before[key], tensor) for key, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
