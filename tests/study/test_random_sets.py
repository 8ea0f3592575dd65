"""Random sets are different, and the coupling says whether their costs add up."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgeres.data import dataset_for
from edgeres.models import network_from
from edgeres.models.weights import load_network, load_weights, weights_without
from edgeres.study.outcomes import Outcomes, outcome_of
from edgeres.study.random_sets import couplings_of, outcomes_without, random_sets

NAMES = ("a", "b", "c", "d", "e")
COST = {"a": 0.1, "b": 0.4, "c": 0.2, "d": 0.8, "e": 0.3}


def _outcomes(sets, together, base=0.5, images=50):
    """Losses of `together(sum of the members' costs, k)` above the whole network's, each image a little different."""
    noise = np.random.default_rng(0).normal(0, 1e-3, images)

    def outcome(cost):
        return Outcomes(right=np.ones(images, bool), loss=base + cost + noise, kl=np.full(images, cost))

    costs = {modules: sum(COST[name] for name in modules) for modules in sets}
    above = {m: together(cost, len(m)) if len(m) > 1 else cost for m, cost in costs.items()}
    return {(): outcome(0.0)} | {modules: outcome(cost) for modules, cost in above.items()}


def test_every_single_module_comes_first_then_different_sets_of_each_size():
    sets = random_sets(NAMES, largest=4, draws=6, seed=0)
    assert sets[:5] == [(name,) for name in NAMES]
    assert [len(modules) for modules in sets[5:]] == [2] * 6 + [3] * 6 + [4] * 5
    assert len(set(sets)) == len(sets)
    assert all(list(modules) == sorted(modules) for modules in sets)
    assert sets == random_sets(NAMES, largest=4, draws=6, seed=0)
    assert sets != random_sets(NAMES, largest=4, draws=6, seed=1)


def test_no_set_is_larger_than_what_there_is():
    assert max(map(len, random_sets(NAMES[:2], largest=20, draws=3, seed=0))) == 2


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_coupling_is_the_loss_of_the_set_over_the_sum_of_its_members(factor):
    sets = random_sets(NAMES, largest=3, draws=4, seed=0)
    over_all, *by_k = couplings_of(_outcomes(sets, lambda cost, k: factor * cost))
    for coupling in (over_all, *by_k):
        assert coupling.loss.value == pytest.approx(factor)
        assert coupling.kl.value == pytest.approx(factor)
        assert coupling.loss.low == pytest.approx(factor)
        assert coupling.left_out == 0
    assert over_all.k is None
    assert over_all.sets == 8
    assert [(coupling.k, coupling.sets) for coupling in by_k] == [(2, 4), (3, 4)]


def test_coupling_that_grows_with_the_set_shows_by_size():
    sets = random_sets(NAMES, largest=4, draws=4, seed=0)
    couplings = couplings_of(_outcomes(sets, lambda cost, k: k * cost))
    assert [coupling.loss.value for coupling in couplings[1:]] == pytest.approx([2, 3, 4])
    assert couplings[0].loss.low < 3 < couplings[0].loss.high


def test_members_that_cost_nothing_have_no_ratio():
    images = 20
    outcome = Outcomes(right=np.ones(images, bool), loss=np.zeros(images), kl=np.zeros(images))
    (over_all, pairs) = couplings_of({(): outcome, ("a",): outcome, ("b",): outcome, ("a", "b"): outcome})
    assert pairs.left_out == over_all.left_out == 1
    assert pairs.loss is None
    assert couplings_of({(): outcome, ("a",): outcome}) == ()


def test_a_set_is_judged_as_the_network_without_it(checkpoint_of, spec_of):
    checkpoint = checkpoint_of(spec_of("resnet14"))
    network = load_network(checkpoint)
    images = dataset_for(checkpoint.spec, "digits").val.sample(30, 0)
    sets = [("layer1.1",), ("layer1.1", "layer3.1")]
    found = outcomes_without(network, images, checkpoint.spec, sets, batch=12)
    assert set(found) == {(), *sets}
    ((x, labels),) = images.batches(checkpoint.spec, 30)
    with torch.inference_mode():
        reference = network(torch.from_numpy(x))
        for modules in sets:
            spec = checkpoint.spec.without(modules)
            alone = network_from(spec).eval()
            alone.load_state_dict(weights_without(load_weights(checkpoint), spec))
            expected = outcome_of(alone(torch.from_numpy(x)), torch.from_numpy(labels), reference)
            assert found[modules].loss == pytest.approx(expected.loss, abs=1e-5)
            assert found[modules].kl == pytest.approx(expected.kl, abs=1e-5)
            assert (found[modules].right == expected.right).mean() > 0.99
    assert found[()].kl == pytest.approx(0, abs=1e-9)
