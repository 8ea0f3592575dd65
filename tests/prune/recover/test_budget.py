"""A budget that is too short is refused before it is spent, whatever it is that takes the time."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from edgeres.core.errors import InputError
from edgeres.data import Split
from edgeres.models.weights import checkpoint_without, load_network
from edgeres.prune.config import PruneConfig, RecoverConfig, SweepConfig
from edgeres.prune.recover import planning as planning_module
from edgeres.prune.recover.budget import Budget, BudgetTooShort
from edgeres.prune.recover.stage import recovered
from edgeres.prune.stage import prune
from edgeres.prune.sweep import sweep

BUDGET_S = 30.0


class Clock:
    """Goes on only while images are read or seen, `slower` times as long once half of the budget is spent."""

    now_s = 0.0
    slower = 1

    def reading(self, image_s, original):
        def batches(split, spec, batch):
            for images, labels in original(split, spec, batch):
                self.now_s += image_s * len(labels)
                yield images, labels

        return batches

    def seeing(self, image_s, original):
        def stem(network, x):
            if isinstance(x, Tensor):  # not while the network is traced
                self.now_s += image_s * len(x) * (self.slower if self.now_s > BUDGET_S / 2 else 1)
            return original(network, x)

        return stem


@pytest.fixture
def teacher(checkpoint_of, spec_of):
    return checkpoint_of(spec_of("resnet14", width=4))


def recovering(teacher, folder, monkeypatch, *, read_s, see_s, method):
    """(the clock when a recovery had ended, why it was refused)."""
    pruned, clock = checkpoint_without(teacher, ("layer2.1",), folder / "cut.safetensors"), Clock()
    config = RecoverConfig(data="digits", images=300, batch=16, budget=f"{BUDGET_S}s", method=method, threads=1)
    network, refused = type(load_network(teacher)), ""
    with monkeypatch.context() as patch:
        patch.setattr("time.perf_counter", lambda: clock.now_s)
        patch.setattr(Split, "batches", clock.reading(read_s, Split.batches))
        patch.setattr(network, "stem", clock.seeing(see_s, network.stem))
        try:
            recovered(pruned, teacher, config, folder / "out")
        except InputError as err:
            refused = str(err)
    return clock.now_s, refused


@pytest.mark.covering(1)
@pytest.mark.parametrize(
    "method", [("mimic", "distill"), ("finetune",), ("bn", "mimic"), ("solve", "mimic")], ids=",".join
)
@pytest.mark.parametrize(
    ("read_s", "see_s"), [(0, 2), (2, 0), (0, 0.1), (0.4, 0), (0, 0.05), (0.06, 0.06)], ids=lambda value: f"{value}s"
)
def test_one_too_short_is_refused_before_it_is_spent(teacher, tmp_path, monkeypatch, read_s, see_s, method):
    spent_s, refused = recovering(teacher, tmp_path, monkeypatch, read_s=read_s, see_s=see_s, method=method)
    assert refused.startswith("--budget 30.0s is too short")
    assert spent_s < BUDGET_S
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", [("bn",), ("solve",), ("bn", "solve")], ids=",".join)
def test_one_too_short_for_what_takes_no_steps_is_refused(teacher, tmp_path, monkeypatch, method):
    _, refused = recovering(teacher, tmp_path, monkeypatch, read_s=0, see_s=3, method=method)
    assert refused.startswith(f"--budget 30.0s is too short: {', '.join(method)} of 300 images needs at least ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("solving", [0.0, 0.4])
@pytest.mark.parametrize("ahead_s", [0.5, 20.0])
def test_the_least_that_is_named_has_room_for_ten_steps(monkeypatch, solving, ahead_s):
    monkeypatch.setattr("time.perf_counter", lambda: 1.0)
    asked = {"step_s": 0.3, "look_s": 0.2, "ahead_s": ahead_s, "solving": solving}

    def steps(budget):
        config = RecoverConfig(data="digits", method=("solve", "mimic"), budget=budget)
        return Budget(config, begun_s=0.0, most=100).steps(**asked)

    with pytest.raises(BudgetTooShort) as err:
        steps("3s")
    said = re.search(
        r"10 steps need at least (\w+)(, 40 % of it to solve modules: all of them may need more)?$", str(err.value)
    )
    assert steps(said[1]) >= 10
    assert bool(said[2]) == (solving > 0)


def test_one_that_is_over_before_a_module_is_refitted_is_refused(teacher, tmp_path, monkeypatch):
    late = planning_module.Solved(left_alone=("layer2.2",), out_of_time=("layer3.0",))
    monkeypatch.setattr(planning_module, "solve", lambda *args, **options: late)
    _, refused = recovering(teacher, tmp_path, monkeypatch, read_s=0, see_s=0.001, method=("solve",))
    assert refused.startswith("--budget 30.0s is too short: solve of 300 images needs at least 3")


@pytest.mark.parametrize("method", ["mimic", "bn", "solve"])
@pytest.mark.parametrize("stage", [prune, sweep])
def test_one_too_short_is_refused_before_modules_are_chosen(teacher, tmp_path, monkeypatch, stage, method):
    clock, network = Clock(), type(load_network(teacher))
    options = {"data": "digits", "images": 300, "recover": (method,), "budget": f"{BUDGET_S}s"}
    config = PruneConfig(drop=1, **options) if stage is prune else SweepConfig(sweep="1..2", **options)
    monkeypatch.setattr("time.perf_counter", lambda: clock.now_s)
    monkeypatch.setattr(network, "stem", clock.seeing(0.2 if method == "mimic" else 2, network.stem))
    with pytest.raises(InputError, match=r"--budget 30\.0s is too short"):
        stage(teacher, config, tmp_path / "out")
    assert clock.now_s < BUDGET_S / 10 + 10 * (method != "mimic")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", [("mimic", "distill"), ("bn", "mimic"), ("solve", "mimic")], ids=",".join)
def test_one_that_is_enough_is_kept(teacher, tmp_path, monkeypatch, method):
    spent_s, refused = recovering(teacher, tmp_path, monkeypatch, read_s=0.001, see_s=0.02, method=method)
    assert refused == ""
    assert spent_s < 1.1 * BUDGET_S


@pytest.mark.parametrize("slower", [1, 4, 60])
def test_one_ends_by_the_clock_where_the_machine_gets_slower(teacher, tmp_path, monkeypatch, slower):
    pruned, clock = checkpoint_without(teacher, ("layer2.1",), tmp_path / "cut.safetensors"), Clock()
    clock.slower, network = slower, type(load_network(teacher))
    config = RecoverConfig(data="digits", images=300, batch=16, budget=f"{BUDGET_S}s", method=("mimic",), threads=1)
    monkeypatch.setattr("time.perf_counter", lambda: clock.now_s)
    monkeypatch.setattr(network, "stem", clock.seeing(0.02, network.stem))
    done = recovered(pruned, teacher, config, tmp_path / "out")
    assert (clock.now_s <= 1.1 * BUDGET_S) == (slower < 60), "one step of 19 s is too long for 30 s"
    assert len([said for said in done.warnings if "of a --budget of 30.0s" in said]) == (slower == 60)
    assert len([said for said in done.notes if "planned steps fit into --budget 30.0s" in said]) == (slower > 1)
    assert done.results["steps"] == (done.results["end_moved"] or [[0, done.results["planned_steps"]]])[-1][1]


@pytest.mark.parametrize(("method", "slower"), [(("mimic",), 4), (("solve", "mimic"), 1)], ids=str)
def test_one_that_the_clock_shortened_is_made_again_to_the_bit(teacher, tmp_path, monkeypatch, method, slower):
    pruned, clock = checkpoint_without(teacher, ("layer2.0",), tmp_path / "cut.safetensors"), Clock()
    clock.slower, network = slower, type(load_network(teacher))
    config = RecoverConfig(data="digits", images=300, batch=16, budget=f"{BUDGET_S}s", method=method, threads=1)
    with monkeypatch.context() as patch:
        patch.setattr("time.perf_counter", lambda: clock.now_s)
        patch.setattr(network, "stem", clock.seeing(0.02, network.stem))
        done = recovered(pruned, teacher, config, tmp_path / "first")
    assert done.results["planned_steps"] > (done.results["end_moved"] or [[0, 0]])[-1][1]
    again = recovered(pruned, teacher, config.following(done.results), tmp_path / "again")
    assert all(torch.equal(again.weights[name], tensor) for name, tensor in done.weights.items())
    same = ("planned_steps", "steps", "end_moved", "looks")
    assert [again.results[name] for name in same] == [done.results[name] for name in same]


def test_modules_that_there_was_no_time_to_solve_are_left_alone_again(teacher, tmp_path):
    pruned = checkpoint_without(teacher, ("layer2.1",), tmp_path / "cut.safetensors")
    config = RecoverConfig(data="digits", images=300, batch=16, budget="1h", method=("solve",), threads=1)
    again = config.following({"solved": {"refitted": ["layer3.0"], "out_of_time": ["layer3.1"]}})
    assert recovered(pruned, teacher, again, tmp_path / "out").results["solved"]["out_of_time"] == ("layer3.1",)


def test_what_was_solved_is_kept_where_no_time_is_left_to_train(teacher, tmp_path, monkeypatch):
    pruned, clock = checkpoint_without(teacher, ("layer2.1",), tmp_path / "cut.safetensors"), Clock()
    solved = planning_module.solve

    def slowly(*args, **options):
        found = solved(*args, **options)
        clock.now_s += BUDGET_S
        return found

    monkeypatch.setattr("time.perf_counter", lambda: clock.now_s)
    monkeypatch.setattr(planning_module, "solve", slowly)
    options = {"data": "digits", "images": 300, "budget": f"{BUDGET_S}s", "threads": 1}
    done = recovered(pruned, teacher, RecoverConfig(**options, method=("solve", "mimic")), tmp_path / "out")
    alone = recovered(pruned, teacher, RecoverConfig(**options, method=("solve",)), tmp_path / "alone")
    assert (done.results["steps"], done.results["methods"]) == (0, ["solve", "mimic"])
    assert "no time was left for mimic: give more than --budget 30.0s" in done.warnings
    assert all(torch.equal(value, alone.weights[key]) for key, value in done.weights.items())
