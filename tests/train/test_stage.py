from __future__ import annotations

import functools
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from edgeres.core.config import config_from
from edgeres.core.errors import DeviceError
from edgeres.data import dataset_from
from edgeres.models.weights import load_network
from edgeres.train.stage import TrainConfig, spec_on, train

QUICK = {"arch": "resnet8", "width": 4, "epochs": 2, "batch": 256, "threads": 1}


def quick(**options: object) -> TrainConfig:
    return config_from(TrainConfig, {**QUICK, **options}, "test")


def test_a_checkpoint_carries_the_data_sets_classes_and_preprocessing(tmp_path: Path) -> None:
    result = train(None, quick(ordering="full-preact", shortcut="B"), tmp_path)
    spec, digits = result.output.spec, dataset_from("digits")
    assert (spec.classes, spec.preprocess, spec.input_shape) == (digits.classes, digits.preprocess, (1, 8, 8))
    assert spec.options == {"ordering": "full-preact", "shortcut": "B", "width": 4}
    load_network(result.output)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.csv", "model.safetensors"]


def test_the_report_speaks_of_loss_and_never_of_accuracy(tmp_path: Path) -> None:
    report = train(None, quick(seed=7, ema=0.5), tmp_path).report
    assert (report.results["seed"], report.results["epochs"], report.results["steps"]) == (7, 2, 10)
    assert report.results["processes"] == 1
    assert report.results["final_loss"] > 0
    assert not report.accuracy
    assert not [key for key in report.results if "top1" in key or "accuracy" in key]
    assert report.notes == ("weights are the running average",)


def test_a_few_epochs_read_digits(tmp_path: Path) -> None:
    config = quick(width=8, epochs=8, batch=64)
    output = train(None, config, tmp_path).output
    import torch

    network, correct = load_network(output), 0
    for images, labels in dataset_from("digits").val.batches(output.spec, 500):
        with torch.no_grad():
            correct += int((network(torch.from_numpy(images)).argmax(1).numpy() == labels).sum())
    assert correct > 0.9 * 449


def test_half_precision_without_a_gpu_is_refused(tmp_path: Path, monkeypatch) -> None:
    import torch

    if torch.accelerator.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(DeviceError, match="--precision bf16 needs a GPU"):
        train(None, quick(precision="bf16"), tmp_path)


def test_another_image_size_brings_its_resize() -> None:
    digits = dataset_from("digits")
    spec = spec_on(digits, "resnet8", {}, 28)
    assert (spec.input_shape, spec.preprocess.resize) == ((1, 28, 28), 32)
    assert spec_on(digits, "resnet8", {}, 8).preprocess == digits.preprocess
    images, _ = next(digits.val.batches(spec, 4))
    assert images.shape == (4, 1, 28, 28)


def test_the_config_is_importable_without_torch() -> None:
    code = "import sys, edgeres.train.config; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


DYING = """
import os, signal, sys
from pathlib import Path
from edgeres.core.config import config_from
from edgeres.train.learner import Learner
from edgeres.train.stage import TrainConfig, train

steps, learn = 0, Learner.learn

def run(out, die_at):
    def dying(self, *args):
        global steps
        steps += 1
        if steps == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return learn(self, *args)

    Learner.learn = dying
    options = dict(arch="resnet8", width=4, epochs=3, batch=256, threads=1)
    options |= dict(ema=0.9, save_every_s=0)
    found = train(None, config_from(TrainConfig, options, "script"), Path(out)).report.results
    # in one piece: two processes write
    os.write(1, "FIRST {first_step} PROCESSES {processes}\\n".format(**found).encode())
"""
ALONE = DYING + "run(sys.argv[1], int(sys.argv[2]))"
KILLED = """
for job in (("a", 0), ("b", 8), ("b", 0)):
    codes = ended(int(sys.argv[1]), run, *job)
    os.write(1, f"ENDED {codes} {os.path.exists(job[0] + '/model.safetensors')}\\n".encode())
"""


def launched(words: Sequence[str], script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = folder / "script.py"
    path.write_text(script)
    before = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"] if words[0] == "torchrun" else []
    command = [sys.executable, *before, str(path), *words[1:]]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=300)


def sha256_of(out: Path) -> str:
    return hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()


SHARES = """
import torch
from edgeres.core.errors import InputError
from edgeres.train.config import LoopConfig
from edgeres.core.processes import agreed, wait_for_all
from edgeres.train.batches import accelerator_for, slice_for

def share():
    accelerator = accelerator_for("fp32")
    part = slice_for(LoopConfig(batch=6), accelerator)
    lines = [f"{part.start}-{part.stop}", agreed(lambda: f"chosen by {accelerator.process_index}")]
    def fail():
        raise InputError("no such run")
    for attempt in (lambda: agreed(fail), lambda: slice_for(LoopConfig(batch=7), accelerator)):
        try:
            attempt()
        except InputError as err:
            lines.append(str(err))
    Path(f"{accelerator.process_index}.txt").write_text("\\n".join(lines))
    wait_for_all()

assert ended(int(sys.argv[1]), share) == [0] * int(sys.argv[1])
"""


@pytest.fixture(scope="module")
def told_by(tmp_path_factory: pytest.TempPathFactory, forking: str) -> Callable[[int], tuple[Path, list[str]]]:
    """`told_by(2)`: the folder in which so many processes shared and were killed, and what they said."""

    @functools.cache
    def run(processes: int) -> tuple[Path, list[str]]:
        folder = tmp_path_factory.mktemp("processes")
        done = launched(["python", str(processes)], forking + DYING + SHARES + KILLED, folder)
        assert done.returncode == 0, done.stderr
        return folder, done.stdout.splitlines()

    return run


@pytest.mark.slow
@pytest.mark.parametrize("processes", [pytest.param(1, marks=pytest.mark.exhaustive), 2])
def test_kill_9_in_the_middle_changes_no_bit(told_by: Callable[[int], tuple[Path, list[str]]], processes: int) -> None:
    folder, told = told_by(processes)
    assert told[: processes + 1] == [f"FIRST 0 PROCESSES {processes}"] * processes + [f"ENDED {[0] * processes} True"]
    killed = told[processes + 1]
    assert "-9" in killed
    assert killed.endswith("False")
    assert told[processes + 2 :] == [f"FIRST 7 PROCESSES {processes}"] * processes + [f"ENDED {[0] * processes} True"]
    assert sha256_of(folder / "a") == sha256_of(folder / "b")


@pytest.mark.exhaustive
def test_kill_9_under_torchrun_changes_no_bit(tmp_path: Path) -> None:
    undisturbed = launched(["torchrun", "a", "0"], ALONE, tmp_path)
    assert "FIRST 0 PROCESSES 2" in undisturbed.stdout, undisturbed.stderr
    assert launched(["torchrun", "b", "8"], ALONE, tmp_path).returncode != 0
    assert not (tmp_path / "b" / "model.safetensors").exists()
    resumed = launched(["torchrun", "b", "0"], ALONE, tmp_path)
    assert "FIRST 7 PROCESSES 2" in resumed.stdout, resumed.stderr
    assert sha256_of(tmp_path / "a") == sha256_of(tmp_path / "b")


@pytest.mark.slow
def test_two_processes_share_a_batch_and_agree_on_one_text(
    told_by: Callable[[int], tuple[Path, list[str]]],
) -> None:
    folder, _ = told_by(2)
    first, second = ((folder / f"{i}.txt").read_text().splitlines() for i in (0, 1))
    refusal = "a batch of 7 does not divide by 2 processes; change it"
    assert first == ["0-3", "chosen by 0", "no such run", refusal]
    assert second == ["3-6", "chosen by 0", "no such run", refusal]


def test_log_csv_has_one_row_an_epoch(tmp_path: Path) -> None:
    train(None, quick(), tmp_path)
    table = np.genfromtxt(tmp_path / "log.csv", delimiter=",", names=True)
    assert table["epoch"].tolist() == [1, 2]
    assert table["step"].tolist() == [5, 10]
    assert ((table["val_top1"] > 0) & (table["val_top1"] <= 1)).all()
