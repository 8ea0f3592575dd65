"""The conditional choice is the best next module given what is gone already."""

from __future__ import annotations

import pytest
import torch

from edgeres.evaluate.lesions import WHOLE, Tally
from edgeres.models import network_from
from edgeres.models.weights import load_network, load_weights, weights_without
from edgeres.prune.choose import SCORES, greedy, reference_batches


@pytest.fixture
def checkpoint(checkpoint_of, spec_of):
    return checkpoint_of(spec_of("resnet20"))


@pytest.fixture
def batches(checkpoint):
    generator = torch.Generator().manual_seed(0)
    pairs = [
        (torch.randn(8, 1, 8, 8, generator=generator), torch.randint(0, 10, (8,), generator=generator))
        for _ in range(3)
    ]
    return reference_batches(load_network(checkpoint), pairs)


def score_by_rebuilding(checkpoint, dropped, batches, score):
    spec = checkpoint.spec.without(dropped)
    network = network_from(spec).eval()
    network.load_state_dict(weights_without(load_weights(checkpoint), spec))
    tally = Tally()
    with torch.inference_mode():
        for images, labels, reference in batches:
            tally.add(network(images), labels, reference)
    return SCORES[score](tally)


@pytest.mark.parametrize("score", SCORES)
def test_each_step_takes_the_module_that_a_rebuilt_network_misses_least(checkpoint, batches, score):
    network = load_network(checkpoint)
    names = [name for name, _ in network.units()]
    steps = greedy(network, batches, count=3, candidates=names, score=score, lazy=False)
    gone: tuple[str, ...] = ()
    for step in steps:
        expected = {
            name: score_by_rebuilding(checkpoint, (*gone, name), batches, score) for name in names if name not in gone
        }
        assert step.scores == pytest.approx(expected, rel=1e-5, abs=1e-7)
        assert step.chosen == min(expected, key=expected.__getitem__)
        assert step.images == 24
        gone = (*gone, step.chosen)


def test_a_lazy_step_measures_few_and_stops_only_when_no_other_can_be_better(checkpoint, batches):
    network = load_network(checkpoint)
    names = [name for name, _ in network.units()]
    full = greedy(network, batches, count=4, candidates=names, lazy=False)
    lazy = greedy(network, batches, count=4, candidates=names)
    assert lazy[0] == full[0]
    known: dict[str, float] = {}
    for step in lazy:
        best = step.scores[step.chosen]
        assert best == min(step.scores.values())
        passed_over = known.keys() - step.scores.keys() - {s.chosen for s in lazy[: lazy.index(step)]}
        assert all(known[name] >= best for name in passed_over)
        known |= step.scores
    assert sum(len(step.scores) for step in lazy) < sum(len(step.scores) for step in full)


def test_a_module_that_does_nothing_goes_first(checkpoint, batches):
    network = load_network(checkpoint)
    with torch.no_grad():
        network.get_submodule("layer3.1.bn2").weight.zero_()
        network.get_submodule("layer3.1.bn2").bias.zero_()
    same = [(images, labels, network(images).detach()) for images, labels, _ in batches]
    steps = greedy(network, same, count=1, candidates=[name for name, _ in network.units()])
    assert steps[0].chosen == "layer3.1"
    assert steps[0].scores["layer3.1"] == pytest.approx(0, abs=1e-9)
    assert WHOLE not in steps[0].scores


def test_modules_to_keep_are_no_candidates(checkpoint, batches):
    steps = greedy(load_network(checkpoint), batches, count=2, candidates=["layer1.0", "layer1.2"])
    assert {step.chosen for step in steps} == {"layer1.0", "layer1.2"}
