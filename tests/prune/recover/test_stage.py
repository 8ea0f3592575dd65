"""`recover` learns from what it is told to, within its time, and keeps what does best on held-out train images."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from itertools import count, repeat

import pytest
import torch

from edgeres.core.artifacts import Checkpoint
from edgeres.core.config import config_from
from edgeres.core.errors import InputError
from edgeres.core.progress import budget_runs_from
from edgeres.data import Split, split_from_arrays
from edgeres.models.weights import load_weights, save_checkpoint, weights_without
from edgeres.prune.config import RecoverConfig
from edgeres.prune.recover import planning as planning_module
from edgeres.prune.recover.stage import recover, recovered
from edgeres.train import loop

GONE = ("layer2.1",)
QUICK = {
    "method": ("mimic", "distill"),
    "data": "digits",
    "images": 120,
    "batch": 16,
    "epochs": 1,
    "threads": 1,
    "lr": 0.005,
}


def quick(**options):
    return RecoverConfig(**{**QUICK, **options})


@pytest.fixture
def teacher(checkpoint_of, spec_of, kept, tmp_path):
    """Random weights with the batch norms' statistics of digits."""
    raw = checkpoint_of(spec_of("resnet14", width=4), "raw.safetensors")

    def write(path):
        weights = recovered(raw, None, quick(method=("bn",), seed=1), path.parent / "raw").weights
        save_checkpoint(weights, raw.spec, path, stage="test")

    return Checkpoint(shutil.copyfile(kept(f"bn {raw.sha256}", write), tmp_path / "whole.safetensors"))


@pytest.fixture
def pruned(teacher, tmp_path):
    spec = teacher.spec.without(GONE)
    return save_checkpoint(weights_without(load_weights(teacher), spec), spec, tmp_path / "cut.safetensors", stage="t")


def same(a, b):
    return all(torch.equal(tensor, b[key]) for key, tensor in a.items())


def moved(before, after):
    return {key for key, tensor in after.items() if not torch.equal(tensor, before[key])}


def dies_at(monkeypatch, step):
    """The loop raises before its `step`-th step, in this process's next call only."""
    calls, original = count(1), loop.Learner.learn

    def learn(self, images, labels, lr):
        if next(calls) == step:
            raise ZeroDivisionError
        return original(self, images, labels, lr)

    monkeypatch.setattr(loop.Learner, "learn", learn)


def test_bn_moves_statistics_only_and_needs_no_teacher(pruned, tmp_path):
    done = recovered(pruned, None, quick(method=("bn",)), tmp_path / "out")
    changed = moved(load_weights(pruned), done.weights)
    statistics = {key for key in done.weights if key.rpartition(".")[2].startswith(("running_", "num_batches"))}
    assert {key for key in statistics if "running_" in key} <= changed <= statistics
    assert (done.results["steps"], done.results["methods"]) == (0, ["bn"])


def test_estimated_statistics_are_those_of_the_images(pruned, tmp_path):
    from edgeres.data import dataset_for
    from edgeres.models.weights import load_network

    done = recovered(pruned, None, quick(method=("bn",), images=40), tmp_path / "out")
    sample = dataset_for(pruned.spec, "digits").train.sample(40, 0)
    images = torch.from_numpy(next(iter(sample.batches(pruned.spec, 40)))[0])
    stem = load_network(pruned).conv1(images)
    assert torch.allclose(done.weights["bn1.running_mean"], stem.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(done.weights["bn1.running_var"], stem.var((0, 2, 3)), rtol=1e-4)


@pytest.mark.parametrize("method", ["mimic", "distill", "mimic,distill", "bn,mimic", "solve,mimic", "finetune"])
def test_only_finetune_reads_labels(pruned, teacher, tmp_path, monkeypatch, method):
    config = config_from(RecoverConfig, {**QUICK, "method": method}, "test")
    with_labels = recovered(pruned, teacher, config, tmp_path / "a")
    original = Split.sample

    def blind(self, n, seed):
        part = original(self, n, seed)
        return replace(part, labels=(part.labels * 7 + 3) % 10)

    monkeypatch.setattr(Split, "sample", blind)
    without = recovered(pruned, teacher, config, tmp_path / "b")
    is_same = same(with_labels.weights, without.weights) and with_labels.results["looks"] == without.results["looks"]
    assert is_same == (method != "finetune")


@pytest.mark.parametrize("method", ["mimic", "distill", "finetune"])
def test_every_method_gets_nearer_to_its_goal(pruned, teacher, tmp_path, method):
    config = quick(method=(method,), epochs=6, images=300, warmup_epochs=0.2)
    results = recovered(pruned, teacher, config, tmp_path / "out").results
    assert results["held_out_best"] < results["held_out_first"]
    assert results["steps"] <= results["planned_steps"] == 6 * (270 // 16)


def test_val_is_never_seen_and_what_is_held_out_is_never_learnt(pruned, teacher, tmp_path, monkeypatch):
    from edgeres.prune.recover import losses

    seen, learnt, judged = [], [], []
    batches, part, score = Split.batches, loop.Learner.learn, losses.HeldOutScore.__init__
    monkeypatch.setattr(Split, "batches", lambda self, *a: seen.append(self.name) or batches(self, *a))

    def learn(self, images, labels, lr):
        learnt.extend(images.flatten(1).tolist())
        return part(self, images, labels, lr)

    def judge(self, split, *a, **k):
        judged.extend(split.ids)
        return score(self, split, *a, **k)

    monkeypatch.setattr(loop.Learner, "learn", learn)
    monkeypatch.setattr(losses.HeldOutScore, "__init__", judge)
    done = recovered(pruned, teacher, quick(augment="none", method=("bn", "mimic")), tmp_path / "out")
    assert set(seen) == {"train"}
    from edgeres.data import dataset_for

    train = dataset_for(pruned.spec, "digits").train
    held_out = train.subset([train.ids.index(name) for name in judged])
    pixels = {
        tuple(row) for row in torch.from_numpy(next(iter(held_out.batches(pruned.spec, 99)))[0]).flatten(1).tolist()
    }
    assert len(pixels) == len(judged) == done.results["held_out"] == 30
    assert pixels.isdisjoint({tuple(row) for row in learnt})


def test_the_weights_are_those_of_the_best_look(pruned, teacher, tmp_path):
    ruinous = quick(lr=5.0, epochs=4, warmup_epochs=0.0)
    done = recovered(pruned, teacher, ruinous, tmp_path / "out")
    assert same(done.weights, load_weights(pruned))
    assert done.results["best_step"] == 0
    assert done.results["stopped_early"]
    assert any("stopped after" in note for note in done.notes)


@pytest.mark.parametrize("lr", [0.01, 5.0])
def test_few_images_are_not_shared_and_what_does_harm_on_them_is_not_taken(lr, pruned, teacher, tmp_path):
    done = recovered(pruned, teacher, quick(images=20, lr=lr, epochs=4, warmup_epochs=0.0), tmp_path / "out")
    assert done.results["held_out"] == 0
    assert "20 images are too few to hold some out: judged on those it learned from" in done.notes
    assert same(done.weights, load_weights(pruned)) == (lr > 1)
    assert any("on the images learned from" in said for said in (*done.notes, *done.warnings))


def test_what_comes_before_the_first_gap_stays_as_it_is_and_counts_once(pruned, teacher, tmp_path, monkeypatch):
    before = load_weights(pruned)
    behind = recovered(pruned, teacher, quick(method=("bn", "mimic")), tmp_path / "a")
    changed = moved(before, behind.weights)
    assert changed
    assert not any(key.startswith(("conv1", "bn1", "layer1.", "layer2.")) for key in changed)
    everything = recovered(pruned, teacher, quick(method=("bn", "mimic"), scope="all"), tmp_path / "b")
    assert {"conv1.weight", "layer1.0.conv1.weight"} <= moved(before, everything.weights)


@pytest.mark.parametrize("method", ["mimic", "distill", "mimic,distill"])
def test_sharing_what_is_equal_changes_no_loss(pruned, teacher, method):
    from edgeres.models.weights import load_network
    from edgeres.prune.recover.losses import objective_for

    config, names = (
        config_from(RecoverConfig, {**QUICK, "method": method}, "test"),
        ["layer1.0", "layer1.1", "layer2.0"],
    )
    images, labels = torch.randn(5, 1, 8, 8), torch.zeros(5, dtype=torch.int64)
    student, whole = load_network(pruned), load_network(teacher)
    losses = [objective_for(whole, config, shared=shared)(student, images, labels) for shared in ([], names)]
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=1e-5)


def test_mimicking_alone_leaves_the_classifier_as_it_is(pruned, teacher, tmp_path):
    done = recovered(pruned, teacher, quick(method=("mimic",), images=40, scope="all"), tmp_path / "out")
    changed = moved(load_weights(pruned), done.weights)
    assert "layer3.1.conv2.weight" in changed
    assert not any(key.startswith("fc.") for key in changed)


def test_interrupted_and_resumed_it_ends_with_the_same_bits(pruned, teacher, tmp_path, monkeypatch):
    config = quick(method=("bn", "mimic", "distill"), save_every_s=0.0, epochs=2)
    undisturbed = recovered(pruned, teacher, config, tmp_path / "a")
    with monkeypatch.context() as patch:
        dies_at(patch, 7)
        with pytest.raises(ZeroDivisionError):
            recovered(pruned, teacher, config, tmp_path / "b")
    resumed = recovered(pruned, teacher, config, tmp_path / "b")
    assert resumed.results["first_step"] == 6
    assert same(resumed.weights, undisturbed.weights)
    assert resumed.results["looks"] == undisturbed.results["looks"]


def test_a_resumed_call_keeps_the_plan_of_its_budget(pruned, teacher, tmp_path, monkeypatch):
    config = quick(budget="30s", epochs=0, save_every_s=0.0)
    monkeypatch.setattr(planning_module, "_timed_steps", lambda *a, **k: repeat(1.0, 4))
    with monkeypatch.context() as patch:
        dies_at(patch, 5)
        with pytest.raises(ZeroDivisionError):
            recovered(pruned, teacher, config, tmp_path)
    monkeypatch.setattr(planning_module, "_timed_steps", lambda *a, **k: repeat(0.1, 4))
    results = recovered(pruned, teacher, config, tmp_path).results
    assert results["first_step"] == 4
    assert 20 <= results["planned_steps"] <= 30


def test_another_call_in_the_same_folder_makes_its_own_plan(pruned, teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(planning_module, "_timed_steps", lambda *a, **k: repeat(1.0, 4))
    first = recovered(pruned, teacher, quick(budget="20s", epochs=0), tmp_path).results["planned_steps"]
    assert recovered(pruned, teacher, quick(budget="40s", epochs=0), tmp_path).results["planned_steps"] > first + 10


def test_of_epochs_and_budget_the_smaller_wins(pruned, teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(planning_module, "_timed_steps", lambda *a, **k: repeat(0.001, 4))
    assert recovered(pruned, teacher, quick(budget="1h", epochs=2), tmp_path).results["planned_steps"] == 2 * (90 // 16)


@pytest.mark.exhaustive
def test_the_real_timing_fits_a_short_budget(pruned, teacher, tmp_path):
    results = recovered(pruned, teacher, quick(budget="3s", epochs=0), tmp_path).results
    assert results["planned_steps"] >= 10
    assert results["duration_s"] > 0


def test_a_finished_recovery_leaves_its_model_and_log_alone(pruned, teacher, tmp_path):
    result = recover(pruned, quick(teacher=teacher.path), tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["log.csv", "model.safetensors"]
    again = Checkpoint(result.output.path)
    assert (again.spec, again.card.parent) == (pruned.spec, pruned.sha256)
    assert json.dumps(result.report.results)


@pytest.mark.parametrize("name", ["start.safetensors", "start.json"])
def test_a_damaged_start_is_made_anew(pruned, teacher, tmp_path, name):
    config = quick(method=("bn", "mimic"))
    done = recovered(pruned, teacher, config, tmp_path)
    (tmp_path / "state.pt").unlink()
    (tmp_path / name).write_bytes(b"half a file")
    assert same(recovered(pruned, teacher, config, tmp_path).weights, done.weights)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": ()}, "name each of bn, solve, mimic, distill, finetune at most once"),
        ({"method": ("mimic", "mimic")}, "at most once"),
        ({"images": 7}, "--images 7 are too few to recover on; take 8 or more"),
        ({"budget": "soon"}, "'soon' is no length of time"),
    ],
)
def test_bad_options_are_one_clear_line(options, message):
    with pytest.raises(InputError, match=message):
        quick(**options).check()


def test_an_unknown_method_is_named():
    with pytest.raises(InputError, match=r"method\.1: .*'finetune', got 'magic'"):
        config_from(RecoverConfig, {**QUICK, "method": "bn,magic"}, "recover")


def test_a_budget_that_is_too_short_says_what_it_would_take(pruned, teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(planning_module, "_timed_steps", lambda *a, **k: repeat(1.0, 4))
    with pytest.raises(
        InputError,
        match=r"--budget 5s is too short: \d steps .* fit \(1 s each\) beside \ds that any .* need at least 1\ds",
    ):
        recovered(pruned, teacher, quick(budget="5s"), tmp_path)
    assert not list(tmp_path.glob("start*"))


def test_a_teacher_of_another_shape_is_refused(pruned, checkpoint_of, spec_of, tmp_path):
    other = checkpoint_of(spec_of("resnet20"), "wide.safetensors")
    with pytest.raises(InputError, match=r"is not what .*cut\.safetensors .* was cut from"):
        recovered(pruned, other, quick(), tmp_path / "out")


def test_imitating_needs_a_teacher(pruned, tmp_path):
    with pytest.raises(InputError, match=r"say which network .* was cut from: --teacher FILE"):
        recover(pruned, quick(), tmp_path / "out")


def test_a_data_set_of_too_few_images_is_refused(pruned, teacher, tmp_path, monkeypatch):
    import numpy as np

    import edgeres.prune.recover.stage as stage

    tiny = split_from_arrays("train", np.zeros((5, 8, 8), np.uint8), [0, 1, 2, 3, 4])
    whole = stage.dataset_for(pruned.spec, "digits")
    monkeypatch.setattr(stage, "dataset_for", lambda *a, **k: replace(whole, train=tiny))
    with pytest.raises(InputError, match="digits has 5 train images, too few to recover on; 8 are the least"):
        recovered(pruned, teacher, quick(), tmp_path / "out")


def test_a_recovery_that_gains_nothing_is_a_warning_and_changes_nothing(pruned, teacher, tmp_path):
    done = recovered(pruned, teacher, quick(lr=30.0, warmup_epochs=0), tmp_path / "out")
    assert same(load_weights(pruned), done.weights)
    (said,) = done.warnings
    assert "nothing gained" in said
    assert "weights as before; lower the learning rate" in said


def test_few_steps_of_a_budget_that_gain_nothing_are_not_laid_on_the_rate(pruned, teacher, tmp_path):
    done = recovered(pruned, teacher, quick(lr=30.0, warmup_epochs=0, epochs=1, budget="10m"), tmp_path / "out")
    assert 0 < done.results["steps"] < 10
    (said,) = [one for one in done.warnings if "nothing gained" in one]
    assert "those are few: a longer --budget, or fewer --images (here 10m and " in said
    assert "lower the learning rate" not in said


def test_a_recovery_says_in_a_sentence_what_it_gained(pruned, teacher, tmp_path):
    done = recovered(pruned, teacher, quick(epochs=4), tmp_path / "out")
    first, best = done.results["held_out_first"], done.results["held_out_best"]
    assert best < first
    assert f"{first:.4g} before, {best:.4g} after" in " ".join(done.notes)


def test_the_start_of_a_command_counts_for_its_budget(teacher, pruned, tmp_path):
    config = quick(method=("mimic",), teacher=teacher.path, budget="90s")
    with budget_runs_from(time.perf_counter() - 89.9), pytest.raises(InputError, match="--budget 90s is too short"):
        recover(pruned, config, tmp_path / "late")
    assert recover(pruned, config, tmp_path / "now").report.results["duration_s"] < 90
