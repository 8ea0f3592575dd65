"""A stage that goes on says what it took altogether; files are given the times of work that nobody did."""

import json
import os
import time

import pytest

from edgeres.core.runs import STARTED_NAME, Run
from edgeres.core.stage import Recorder, StageResult
from edgeres.models.weights import checkpoint_without
from edgeres.pipeline.calls import Call, call
from edgeres.pipeline.stages import execute
from edgeres.prune.cut import cut_and_recovered
from edgeres.prune.sweep import SweepConfig
from edgeres.train.config import TrainConfig


def worked(path, seconds):
    """As if the call had begun so many seconds before what is kept there was written, just now."""
    path.write_text("state")
    started = path.parent / STARTED_NAME
    os.utime(started, (started.stat().st_mtime - seconds,) * 2)


class Stage:
    """Interrupted after each of `parts`, in seconds, then done at once."""

    def __init__(self, *parts):
        self.parts = list(parts)

    def __call__(self, source, config, folder):
        if self.parts:
            worked(folder / "state.pt", self.parts.pop(0))
            raise KeyboardInterrupt
        recorder = Recorder("train", config, source)
        return StageResult(None, recorder.finish(None))


def took_s(folder, act, key="key", *, calls):
    for _ in range(calls - 1):
        with pytest.raises(KeyboardInterrupt):
            execute("train", None, TrainConfig(), folder, key, by=act)
    return execute("train", None, TrainConfig(), folder, key, by=act).report.duration_s


def test_what_calls_before_kept_counts_and_the_time_between_them_does_not(tmp_path):
    assert took_s(tmp_path / "00-train", Stage(100, 0, 30), calls=4) == pytest.approx(130, abs=5)
    assert json.loads((tmp_path / "00-train" / "report.json").read_text())["duration_s"] > 125
    assert took_s(tmp_path / "01-train", Stage(), calls=1) < 5


def test_a_pause_is_no_work(tmp_path):
    folder, act = tmp_path / "00-train", Stage(100, 30)
    with pytest.raises(KeyboardInterrupt):
        execute("train", None, TrainConfig(), folder, "key", by=act)
    for path in folder.iterdir():  # all of it happened a day ago
        os.utime(path, (path.stat().st_mtime - 86400,) * 2)
    assert took_s(folder, act, calls=2) == pytest.approx(130, abs=5)


def test_what_another_call_left_is_not_counted(tmp_path):
    folder, act = tmp_path / "00-train", Stage(100)
    with pytest.raises(KeyboardInterrupt):
        execute("train", None, TrainConfig(), folder, "of other options", by=act)
    assert took_s(folder, act, calls=1) < 5


def test_a_folder_that_is_claimed_and_begun_is_one_call(tmp_path):
    run, act = Run(tmp_path / "r"), Stage(50, 7)
    for _ in act.parts[:]:
        with pytest.raises(KeyboardInterrupt):
            execute("train", None, TrainConfig(), run.claim("train", "key"), "key", by=act)
    assert took_s(run.claim("train", "key"), act, calls=1) == pytest.approx(57, abs=5)
    assert [one.path.name for one in run.folders()] == ["00-train"]


def killed_in_training(monkeypatch):
    """The training of the next recovery is stopped after its start was kept."""
    with monkeypatch.context() as patched:
        patched.setattr("edgeres.prune.recover.stage.fit", lambda *_: exec("raise KeyboardInterrupt"))
        yield


QUICK = {"data": "digits", "images": 120, "batch": 16, "epochs": 1}


def test_a_recovery_says_it_in_its_figures_too(checkpoint_of, spec_of, tmp_path, monkeypatch):
    whole = checkpoint_of(spec_of("resnet14", width=4))
    cut = checkpoint_without(whole, ("layer2.1",), tmp_path / "cut.safetensors")
    values = {**QUICK, "teacher": whole.path, "threads": 1}
    asked = Call("recover", cut.path, out=tmp_path / "out.safetensors", values=values)
    began_s = time.monotonic()
    for _ in killed_in_training(monkeypatch):
        with pytest.raises(KeyboardInterrupt):
            call(asked)
    (folder,) = tmp_path.glob(".out.safetensors.*")
    worked(folder / "kept", 1000)
    report = call(asked).report
    own_s = time.monotonic() - began_s
    assert 1000 < report.results["duration_s"] < report.duration_s < 1000.1 + own_s


def test_a_recovery_inside_of_another_stage_says_it_too(checkpoint_of, spec_of, tmp_path, monkeypatch):
    whole, path = checkpoint_of(spec_of("resnet14", width=4)), tmp_path / "drop-01.safetensors"
    config = SweepConfig(**QUICK, recover=("mimic",), sweep="1..2")
    for _ in killed_in_training(monkeypatch):
        with pytest.raises(KeyboardInterrupt):
            cut_and_recovered(whole, ("layer2.1",), config, path)
    worked(tmp_path / ".drop-01-recover" / "kept", 1000)
    done = cut_and_recovered(whole, ("layer2.1",), config, path)
    assert done.results["recovery"]["duration_s"] > 1000
    assert [one.name for one in tmp_path.glob("*drop*")] == [path.name]
