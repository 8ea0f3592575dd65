"""A planned training keeps the weights that did best on held-out images, through interruptions too."""

from __future__ import annotations

import math
from itertools import count, pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgeres.core.spec import Preprocess
from edgeres.data import split_from_arrays
from edgeres.models import network_from, spec_from_arch
from edgeres.train import schedule as schedule_module
from edgeres.train.batches import batches_for
from edgeres.train.config import LoopConfig
from edgeres.train.loop import Training, fit
from edgeres.train.objectives import cross_entropy
from edgeres.train.schedule import Course, HeldOut, Plan, rate_at

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
    return fit(Training(fresh(), objective or cross_entropy, data(), CONFIG, state_dir), plan)


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
        return cross_entropy(network, images, labels)

    return objective


def test_a_part_of_an_epoch_can_be_planned_and_has_its_row(tmp_path):
    done = planned(tmp_path, Plan(6, 1))
    assert done.steps == 6
    rows = (tmp_path / "log.csv").read_text().splitlines()[1:]
    assert [row.split(",")[:2] for row in rows] == [["1", "4"], ["2", "6"]]


def test_as_many_steps_as_usual_give_the_usual_bits(tmp_path):
    usual = fit(Training(fresh(), cross_entropy, data(), CONFIG, tmp_path / "a"))
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
    plan = Plan(10, 0, patience=3)
    held_out = HeldOut(plan, Course(plan))
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


class Clock:
    """Stands for time.perf_counter."""

    def __init__(self, monkeypatch):
        self.now_s = 0.0
        monkeypatch.setattr(schedule_module, "time", SimpleNamespace(perf_counter=lambda: self.now_s))

    def course(self, plan, takes_s, look_s=0.0):
        """What became of a training with `plan` whose steps and looks take so long; the steps that it took."""
        course, step = Course(plan), 0
        while step < course.steps:
            self.now_s += takes_s(step)
            step += 1
            course.went_on()
            course.keep_in_time(step)
            if course.is_due(step):
                self.now_s += look_s
                course.went_on(looked=True)
        return course, step

    def objective(self, takes_s):
        """A loss that takes so long at each step."""
        calls, loss = count(), cross_entropy

        def objective(network, images, labels):
            self.now_s += takes_s(next(calls))
            return loss(network, images, labels)

        return objective


@pytest.mark.parametrize("slower", [1.5, 3, 10])
@pytest.mark.parametrize("look_s", [0.0, 2.0])
def test_on_a_machine_that_gets_slower_it_ends_in_time_and_its_rate_comes_down(monkeypatch, slower, look_s):
    clock = Clock(monkeypatch)
    plan = Plan(100, 5, lambda network: 0.0, look_every=25, until_s=120.0)
    course, steps = clock.course(plan, lambda step: 1.0 if step < 20 else slower, look_s)
    assert 0.9 * 120 <= clock.now_s <= 120 + slower
    assert steps == course.moved[-1][1] < 100
    rates = [rate_at(course.place(step), steps=100, warmup=5, kind="cosine") for step in range(steps)]
    assert rates[:5] == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert all(after <= before for before, after in pairwise(rates[5:]))
    assert rates[-1] < 0.1
    assert course.place(steps) == pytest.approx(100)


def test_a_machine_that_was_slow_for_a_while_gets_its_steps_back(monkeypatch):
    clock = Clock(monkeypatch)
    course, steps = clock.course(Plan(100, 0, until_s=150.0), lambda step: 3.0 if 30 <= step < 50 else 1.0)
    assert min(end for _, end in course.moved) < 80
    assert 95 <= steps <= 100
    assert clock.now_s <= 151


def test_a_pause_of_the_machine_costs_its_own_time_only(monkeypatch):
    course, steps = Clock(monkeypatch).course(Plan(100, 0, until_s=120.0), lambda step: 31.0 if step == 50 else 1.0)
    assert 85 <= steps <= 90
    assert course.moved[0][0] == 51


def test_short_steps_that_last_unequally_long_hardly_move_the_end(monkeypatch):
    noise = np.random.default_rng(0).lognormal(0.0, 0.5, 20_000)
    clock = Clock(monkeypatch)
    course, steps = clock.course(Plan(10_000, 0, until_s=40.0), lambda step: 0.005 * float(noise[step]))
    assert len(course.moved) < 60  # by the median of five steps it was 2,485 times
    assert 36 <= clock.now_s <= 40.1
    assert steps < 10_000


def test_with_time_enough_the_clock_changes_nothing(tmp_path, monkeypatch):
    without = planned(tmp_path / "no end", Plan(7, 1))
    objective = Clock(monkeypatch).objective(lambda step: 1.0)
    done = planned(tmp_path, Plan(7, 1, until_s=8.0), objective)
    assert (done.steps, done.moved) == (7, [])
    assert same(done.weights, without.weights)


def test_interrupted_after_its_end_was_moved_it_goes_on_with_the_same_bits(tmp_path, monkeypatch):
    def times(step):
        return 1.0 if step < 3 else 4.0

    undisturbed = planned(tmp_path / "a", Plan(20, 2, until_s=30.0), Clock(monkeypatch).objective(times))
    timed, calls = Clock(monkeypatch).objective(times), count(1)

    def objective(network, images, labels):
        if next(calls) == 8:
            raise ZeroDivisionError
        return timed(network, images, labels)

    with pytest.raises(ZeroDivisionError):
        planned(tmp_path / "b", Plan(20, 2, until_s=30.0), objective)
    assert undisturbed.moved[-1][0] < 7, "before the interruption"
    resumed = planned(tmp_path / "b", Plan(20, 2, until_s=11.0), Clock(monkeypatch).objective(lambda step: 4.0))
    assert (resumed.first_step, resumed.moved) == (7, undisturbed.moved)
    assert same(resumed.weights, undisturbed.weights)


@given(st.integers(1, 500), st.integers(0, 100), st.sampled_from(["cosine", "step"]))
def test_the_rate_rises_in_the_warm_up_and_never_after(steps: int, warmup: int, kind: str) -> None:
    rates = [rate_at(step, steps=steps, warmup=min(warmup, steps), kind=kind) for step in range(steps)]
    top = min(warmup, steps)
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert all(0 < rate <= 1 for rate in rates)


def test_cosine_is_one_half_in_the_middle_and_ends_near_zero() -> None:
    assert rate_at(60, steps=110, warmup=10, kind="cosine") == pytest.approx(0.5)
    assert rate_at(109, steps=110, warmup=10, kind="cosine") == pytest.approx((1 + math.cos(math.pi * 0.99)) / 2)


def test_step_divides_by_ten_at_a_half_and_three_quarters() -> None:
    rates = [rate_at(step, steps=64, warmup=0, kind="step") for step in (0, 31, 32, 47, 48, 63)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
