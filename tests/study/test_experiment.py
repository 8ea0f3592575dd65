"""Networks of a study: trained once, kept, judged on val, and not trained again."""

from __future__ import annotations

import logging

import pytest

from edgeres.core.artifacts import Checkpoint
from edgeres.core.config import record_from_json
from edgeres.core.errors import InputError, StageError
from edgeres.data import dataset_from
from edgeres.evaluate.stage import accuracy_of
from edgeres.study import experiment
from edgeres.study.experiment import (
    Experiment,
    Job,
    Kind,
    Trained,
    TrainingConfig,
    fresh,
    network_trained,
    trained,
)
from edgeres.train.stage import spec_on

QUICK = TrainingConfig(epochs=1, batch=256)


@pytest.fixture(scope="module")
def digits():
    return dataset_from("digits")


def rows_in(folder, seeds=1):
    kind = Kind("one", "one", "resnet8", {"network": "one"})
    return Experiment("depth", QUICK.model_copy(update={"seeds": seeds}), [kind], folder).rows(Trained, trained)


def job_of(digits, seed=0, name="one"):
    return Job(name, spec_on(digits, "resnet8", {}), QUICK.loop(seed))


def test_full_takes_the_papers_setting_and_says_so():
    config = TrainingConfig(full=True)
    assert (config.data, config.epochs, config.batch, config.schedule) == ("cifar10", 164, 128, "step")
    assert config.setting == "full"


def test_full_with_a_change_is_not_the_papers_setting():
    config = TrainingConfig(full=True, epochs=2)
    assert (config.epochs, config.data) == (2, "cifar10")
    assert config.setting == "short"
    assert TrainingConfig().setting == "short"


def test_the_counts_are_those_of_the_kept_network(digits, tmp_path):
    (row,) = rows_in(tmp_path)
    folder = tmp_path / "networks" / "one-seed0"
    outcome = record_from_json(Trained, folder / "trained.json")
    kept = Checkpoint(folder / "model.safetensors")
    for split, correct, n in (
        ("train", outcome.train_correct, outcome.train_n),
        ("val", outcome.val_correct, outcome.val_n),
    ):
        accuracy = accuracy_of(kept, digits, split=split)
        assert (accuracy.correct_top1, accuracy.n) == (correct, n)
    assert row["test_error_percent"] == pytest.approx(100 * (1 - outcome.val_correct / outcome.val_n), abs=1e-4)
    assert not (folder / "state.pt").exists()


def test_an_interrupted_study_trains_only_what_is_missing(tmp_path, monkeypatch):
    whole = rows_in(tmp_path / "whole", seeds=3)
    real, begun = network_trained, []

    def counted(job, *rest):
        begun.append(job.name)
        if begun.count("one-seed1") == 1 and job.name == "one-seed1":
            raise KeyboardInterrupt
        return real(job, *rest)

    monkeypatch.setattr(experiment, "network_trained", counted)
    with pytest.raises(KeyboardInterrupt):
        rows_in(tmp_path / "broken", seeds=3)
    assert rows_in(tmp_path / "broken", seeds=3) == whole
    assert begun == ["one-seed0", "one-seed1", "one-seed1", "one-seed2"]


def test_a_study_says_how_long_the_rest_will_take_at_the_pace_of_what_it_trained(tmp_path, monkeypatch, caplog):
    rows_in(tmp_path, seeds=1)
    monkeypatch.setattr(experiment, "network_trained", lambda *args: (fresh(args[0]), 1.0))
    clock = iter(range(0, 1000, 60))
    monkeypatch.setattr("edgeres.core.progress.time.monotonic", lambda: next(clock))
    caplog.clear()  # the level may have been set by a command in this process
    with caplog.at_level(logging.INFO, logger="edgeres.study"):
        rows_in(tmp_path, seeds=4)
    assert [record.message for record in caplog.records] == [
        "network 1 of 4: one-seed0",
        "network 2 of 4: one-seed1",
        "network 3 of 4: one-seed2; about 2m left",
        "network 4 of 4: one-seed3; about 1m left",
    ]


def test_a_training_broken_off_within_a_network_goes_on_to_the_same_weights(digits, tmp_path):
    job = Job("one", spec_on(digits, "resnet8", {}), TrainingConfig(epochs=2, batch=256).loop(0))

    def stop(network):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        network_trained(job, digits, tmp_path / "broken", stop)
    broken, loss = network_trained(job, digits, tmp_path / "broken")
    whole, same_loss = network_trained(job, digits, tmp_path / "whole")
    assert loss == same_loss
    weights = whole.state_dict()
    assert all(bool((value == weights[key]).all()) for key, value in broken.state_dict().items())


def test_a_seed_decides_the_initial_weights(digits):
    first, again, other = (fresh(job_of(digits, seed)).fc.weight for seed in (0, 0, 1))
    assert (first == again).all()
    assert not (first == other).all()


def test_a_loss_that_is_not_finite_names_its_network(digits, tmp_path):
    loop = QUICK.loop(0).model_copy(update={"lr": 1e30, "warmup_epochs": 0})
    with pytest.raises(StageError, match="one: training: the loss is"):
        network_trained(Job("one", spec_on(digits, "resnet8", {}), loop), digits, tmp_path)


def test_the_lines_of_every_epoch_are_left_out(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="edgeres"):
        rows_in(tmp_path)
    assert [record.message for record in caplog.records] == ["network 1 of 1: one-seed0"]
    assert logging.getLogger("edgeres.train.loop").level == logging.NOTSET


def test_a_batch_larger_than_the_split_is_refused(digits, tmp_path):
    loop = TrainingConfig(epochs=1, batch=5000).loop(0)
    with pytest.raises(InputError, match="fewer than one batch of 5000"):
        network_trained(Job("one", spec_on(digits, "resnet8", {}), loop), digits, tmp_path)
