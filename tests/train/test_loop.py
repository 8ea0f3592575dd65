from __future__ import annotations

import csv
import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from edgeres.core.errors import InputError, StageError
from edgeres.core.spec import ModelSpec, Preprocess
from edgeres.data import split_from_arrays
from edgeres.models import network_from, spec_from_arch
from edgeres.models.network import Network
from edgeres.train.batches import Batches, batches_for
from edgeres.train.config import LoopConfig
from edgeres.train.loop import Fitted, Training, fit
from edgeres.train.objectives import cross_entropy
from edgeres.train.state import STATE_NAME

CONFIG = LoopConfig(epochs=3, batch=8, warmup_epochs=1, ema=0.9, clip_norm=1.0, save_every_s=0.0, threads=1)


def spec() -> ModelSpec:
    preprocess = Preprocess(mean=(0.5,), std=(0.5,))
    options: dict[str, str | int | float] = {"width": 4}
    return spec_from_arch("resnet8", num_classes=2, input_shape=(1, 4, 4), preprocess=preprocess, options=options)


def data_for(config: LoopConfig) -> Batches:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 35)
    images = (generator.integers(0, 100, (35, 4, 4)) + 100 * labels[:, None, None]).astype(np.uint8)
    return batches_for(split_from_arrays("train", images, labels), spec(), config)


def fresh(seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return network_from(spec())


def noisy(network, images, labels):
    """As a network with dropout, which draws from torch's generator in every step."""
    return cross_entropy(network, images + 0.1 * torch.randn_like(images), labels)


def fitted(state_dir: Path, config: LoopConfig = CONFIG, objective=None, **options) -> Fitted:
    return fit(Training(fresh(), objective or noisy, data_for(config), config, state_dir, **options))


def same(a: Fitted, b: Fitted) -> bool:
    return all(torch.equal(tensor, b.weights[key]) for key, tensor in a.weights.items())


def log_of(state_dir: Path) -> list[dict[str, str]]:
    with (state_dir / "log.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "images_per_s"} for row in csv.DictReader(file)]


def stopping_at(step: int, action):
    """An objective that calls `action` in its `step`-th call."""
    calls = 0

    def objective(network, images, labels):
        nonlocal calls
        calls += 1
        if calls == step:
            action()
        return noisy(network, images, labels)

    return objective


def test_the_same_seed_gives_the_same_bits(tmp_path: Path) -> None:
    first, second = fitted(tmp_path / "a"), fitted(tmp_path / "b")
    assert same(first, second)
    assert log_of(tmp_path / "a") == log_of(tmp_path / "b")
    other = fitted(tmp_path / "c", CONFIG.model_copy(update={"seed": 1}))
    assert not same(first, other)


def test_two_colours_are_told_apart(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"epochs": 15, "ema": 0.0})
    assert fitted(tmp_path, config).final_loss < 0.2


@pytest.mark.parametrize("step", [1, 4, 6, 11, 12])
def test_ctrl_c_saves_the_state_and_the_next_call_ends_with_the_same_bits(tmp_path: Path, step: int) -> None:
    undisturbed = fitted(tmp_path / "a")
    objective = stopping_at(step, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        fitted(tmp_path / "b", objective=objective)
    resumed = fitted(tmp_path / "b")
    assert (resumed.first_step, resumed.steps) == (step, 12)
    assert resumed.images_per_s > 0, "of the earlier call, where no step was left"
    assert same(undisturbed, resumed)
    assert log_of(tmp_path / "a") == log_of(tmp_path / "b")


def test_the_callers_signal_handlers_come_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    fitted(tmp_path)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_training_works_outside_the_main_thread(tmp_path: Path) -> None:
    results: list[Fitted] = []
    thread = threading.Thread(target=lambda: results.append(fitted(tmp_path)))
    thread.start()
    thread.join()
    assert len(results) == 1


def fails() -> None:
    raise ZeroDivisionError


def test_a_crash_loses_no_more_than_the_time_between_saves(tmp_path: Path) -> None:
    undisturbed = fitted(tmp_path / "a")
    with pytest.raises(ZeroDivisionError):
        fitted(tmp_path / "b", objective=stopping_at(7, fails))
    resumed = fitted(tmp_path / "b")
    assert resumed.first_step == 6
    assert same(undisturbed, resumed)


def test_rare_saving_keeps_the_end_of_each_epoch(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"save_every_s": 1e6})
    with pytest.raises(ZeroDivisionError):
        fitted(tmp_path, config, stopping_at(7, fails))
    assert fitted(tmp_path, config).first_step == 4


def test_a_state_of_another_training_is_put_aside_and_named(tmp_path: Path, caplog) -> None:
    with pytest.raises(ZeroDivisionError):
        fitted(tmp_path, objective=stopping_at(3, fails))
    other = CONFIG.model_copy(update={"lr": 0.05})
    resumed = fitted(tmp_path, other)
    assert resumed.first_step == 0
    assert "lr: 0.1, now 0.05" in caplog.text
    assert (tmp_path / "state.old.pt").exists()


def test_a_state_of_other_initial_weights_is_not_continued(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        fitted(tmp_path, objective=stopping_at(3, fails))
    result = fit(Training(fresh(seed=5), cross_entropy, data_for(CONFIG), CONFIG, tmp_path))
    assert result.first_step == 0


def test_options_that_only_watch_may_change_on_resume(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        fitted(tmp_path, objective=stopping_at(3, fails))
    config = CONFIG.model_copy(update={"save_every_s": 9.0})
    assert fitted(tmp_path, config, glance=lambda network: 0.5).first_step == 2


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    (tmp_path / STATE_NAME).write_bytes(b"half a file")
    with pytest.raises(InputError, match=r"state\.pt is damaged; remove it to start over"):
        fitted(tmp_path)


class Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("code in a state was run",)


def test_a_state_that_would_run_code_is_refused(tmp_path: Path, capsys) -> None:
    torch.save({"identity": Payload()}, tmp_path / STATE_NAME)
    with pytest.raises(InputError, match=r"state\.pt is damaged"):
        fitted(tmp_path)
    assert capsys.readouterr().out == ""


def test_clipping_bounds_the_first_step(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"clip_norm": 1e-3, "epochs": 1, "weight_decay": 0.0, "ema": 0.0})
    start, lr, steps = fresh(), config.lr, 4
    moved = fitted(tmp_path, config).weights["conv1.weight"] - start.conv1.weight  # type: ignore[operator, union-attr]
    # each step moves by at most lr (1 + momentum + ...) times the norm: here less than lr * 10 * norm
    assert 0 < moved.norm() < steps * lr * 10 * 1e-3


def test_a_loss_that_is_no_number_stops_the_training_before_it_is_saved(tmp_path: Path) -> None:
    def objective(network, images, labels):
        return cross_entropy(network, images, labels) * float("nan")

    with pytest.raises(StageError, match=r"loss is nan at step 1 \(lr 0\.025\)"):
        fitted(tmp_path, objective=objective)
    assert not (tmp_path / STATE_NAME).exists()


def test_a_glance_at_val_changes_no_weight(tmp_path: Path) -> None:
    def top1(network) -> float:
        network.eval()
        with torch.no_grad():
            network(torch.randn(4, 1, 4, 4))
        network.train()
        return 0.5

    assert same(fitted(tmp_path / "a"), fitted(tmp_path / "b", glance=top1))
    assert [row["val_top1"] for row in log_of(tmp_path / "b")] == ["0.5"] * 3


def test_frozen_parameters_stay_and_features_may_be_the_goal(tmp_path: Path) -> None:
    network = fresh()
    before = network.fc.weight.detach().clone()  # type: ignore[operator, union-attr]
    network.fc.requires_grad_(False)  # type: ignore[operator, union-attr]
    first = network.conv1.weight.detach().clone()  # type: ignore[operator, union-attr]

    def mimicking(network: Network, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return network.features(images).square().mean()

    fit(Training(network, mimicking, data_for(CONFIG), CONFIG, tmp_path))
    assert torch.equal(network.fc.weight, before)  # type: ignore[arg-type]
    assert not torch.equal(network.conv1.weight, first)  # type: ignore[arg-type, union-attr]
