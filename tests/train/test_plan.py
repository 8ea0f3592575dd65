"""A planned training keeps the weights that did best on held-out images, through interruptions too."""

from __future__ import annotations

from itertools import count

import numpy as np
import pytest
import torch

from edgeres.core.spec import Preprocess
from edgeres.data import split_from_arrays
from edgeres.models import network_from, spec_from_arch
from edgeres.train.batches import batches_for
from edgeres.train.config import LoopConfig
from edgeres.train.loop import Training, fit
from edgeres.train.objectives import cross_entropy
from edgeres.train.plan import HeldOut, Plan

CONFIG = LoopConfig(batch=8, warmup_epochs=0.5, save_every_s=0.0, threads=1, epochs=1)
SPEC = spec_from_arch(
    "resnet8",
    num_classes=2,
    input_shape=(1, 4, 4),
    preprocess=Preprocess(mean=(0.5,), std=(0.5,)),
    options={"width": 4},
)


def data():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 35)
    images = (generator.integers(0, 100, (35, 4, 4)) + 100 * labels[:, None, None]).astype(np.uint8)
    return batches_for(split_from_arrays("train", images, labels), SPEC, CONFIG)


def fresh():
    torch.manual_seed(0)
    return network_from(SPEC)


def planned(state_dir, plan, objective=None):
    return fit(Training(fresh(), objective or cross_entropy(), data(), CONFIG, state_dir), plan)


def scores(*values):
    """A score that returns `values` one after the other, the last one for ever."""
    calls = count()
    return lambda network: values[min(next(calls), len(values) - 1)]


def same(a, b):
    return all(torch.equal(tensor, b[key]) for key, tensor in a.items())


def fails_at(step):
    calls = count(1)

    def objective(network, images, labels):
        if next(calls) == step:
            raise ZeroDivisionError
        return cross_entropy()(network, images, labels)

    return objective


def test_a_part_of_an_epoch_can_be_planned_and_has_its_row(tmp_path):
    done = planned(tmp_path, Plan(6, 1))
    assert done.steps == 6
    rows = (tmp_path / "log.csv").read_text().splitlines()[1:]
    assert [row.split(",")[:2] for row in rows] == [["1", "4"], ["2", "6"]]


def test_as_many_steps_as_usual_give_the_usual_bits(tmp_path):
    usual = fit(Training(fresh(), cross_entropy(), data(), CONFIG, tmp_path / "a"))
    assert same(usual.weights, planned(tmp_path / "b", Plan(4, 2)).weights)


def test_looking_changes_nothing_that_is_learnt(tmp_path):
    def noisy(network):
        network(torch.randn(4, 1, 4, 4))
        return -next(calls)

    calls = count()
    looked_at = planned(tmp_path / "a", Plan(6, 1, score=noisy, look_every=2))
    assert [step for step, _ in looked_at.looks] == [0, 2, 4, 6]
    assert same(looked_at.weights, planned(tmp_path / "b", Plan(6, 1)).weights)


def test_the_best_weights_are_kept_even_those_that_came_in(tmp_path):
    first_is_best = planned(tmp_path / "a", Plan(4, 1, score=scores(1.0, 2.0)))
    assert same(first_is_best.weights, fresh().state_dict())
    second_is_best = planned(tmp_path / "b", Plan(4, 1, score=scores(2.0, 1.0, 3.0), look_every=2))
    short = {}

    def remember(network):
        short.setdefault(len(short), {key: value.clone() for key, value in network.state_dict().items()})
        return 0.0

    planned(tmp_path / "c", Plan(4, 1, score=remember, look_every=2))
    assert same(second_is_best.weights, short[1])


def test_a_score_that_is_no_number_is_never_the_best(tmp_path):
    done = planned(tmp_path, Plan(4, 1, score=scores(1.0, float("nan"), 0.5, 0.7)))
    assert done.looks[1] == (1, float("inf"))
    assert min(done.looks, key=lambda look: look[1]) == (2, 0.5)


def test_it_stops_in_the_last_quarter_once_nothing_gets_better(tmp_path):
    done = planned(tmp_path, Plan(12, 1, score=scores(1.0, 0.5, 0.6)))
    assert done.steps == 9
    late = planned(tmp_path / "late", Plan(12, 1, score=scores(9, 8, 7, 6, 5, 4, 3, 2, 3)))
    assert late.steps == 10


def test_patience_counts_looks_since_the_best():
    held_out = HeldOut(Plan(10, 0, patience=3))
    held_out.looks = [(0, 3.0), (5, 1.0), (6, 2.0), (7, 2.0)]
    assert not held_out.has_given_up
    held_out.looks.append((8, 1.0))
    assert held_out.has_given_up


@pytest.mark.parametrize("step", [1, 4, 6])
def test_interrupted_it_ends_with_the_same_bits_and_looks(tmp_path, step):
    def spread(network):
        return float(next(network.parameters()).detach().std())

    plan = Plan(7, 1, score=spread, look_every=2)
    undisturbed = planned(tmp_path / "a", plan)
    with pytest.raises(ZeroDivisionError):
        planned(tmp_path / "b", plan, fails_at(step))
    resumed = planned(tmp_path / "b", plan)
    assert resumed.first_step == step - 1
    assert resumed.looks == undisturbed.looks
    assert same(resumed.weights, undisturbed.weights)


def test_one_that_had_stopped_early_takes_no_further_step_when_called_again(tmp_path):
    plan = Plan(12, 1, score=scores(1.0, 0.5, 0.6))
    done = planned(tmp_path, plan)
    again = planned(tmp_path, plan, fails_at(1))
    assert (again.steps, again.first_step) == (9, 9)
    assert same(again.weights, done.weights)


def test_a_state_of_another_plan_is_not_continued(tmp_path):
    with pytest.raises(ZeroDivisionError):
        planned(tmp_path, Plan(7, 1), fails_at(3))
    assert planned(tmp_path, Plan(8, 1)).first_step == 0
