"""The same on a board: a pretend Jetson behind a real ssh server; its trtexec takes 2 ms, 1.25 for Q/DQ networks."""

from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from edgeres.core.artifacts import Engine, FrontierFile, OnnxModel
from edgeres.core.config import record_from_json
from edgeres.core.errors import AlwaysRefused, DeviceError, InputError
from edgeres.core.records.frontier import Frontier
from edgeres.core.runs import STARTED_NAME, Run, latest_run
from edgeres.core.stage import Recorder, StageResult
from edgeres.models.weights import load_weights
from edgeres.optimize import calls
from edgeres.optimize.calls import optimize_call
from edgeres.optimize.plan import plan_from
from edgeres.pipeline.calls import Call, call
from edgeres.report.gate import GateConfig, gate
from edgeres.report.rows import rows_from


@pytest.fixture
def checkpoint(checkpoint_of, spec_of):
    outside = checkpoint_of(spec_of("resnet8", width=4))
    return call(Call("import", run="mine", values={"file": outside.path})).output


@pytest.fixture(autouse=True)
def briefly(monkeypatch):
    monkeypatch.setattr(calls, "_DURATION_S", 5)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_what_a_board_times_decides_and_its_engines_are_handed_over(host, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("edgeres.optimize.search._TRAINING_LEAST", math.inf)
    host.start(FAKE_INT8_MS="1.25")
    plan = tmp_path / "plan.toml"
    plan.write_text(f'model_sha256 = "{checkpoint.sha256}"\n[[tries]]\ndrop = ["layer2.0"]\n')
    asked = {"data": "digits", "images": 64, "budget": "20m", "max_loss": 100.0, "latency": "0.7x", "plan": plan}
    done = optimize_call(checkpoint.path, None, asked, {}, "desk")
    found = record_from_json(Frontier, done.output.path)
    assert found.runtime == "tensorrt 10.3.0"
    assert "NVIDIA Jetson Orin Nano" in found.machine
    assert [(one.precision, len(one.dropped)) for one in found.tried] == [("fp32", 0), ("int8", 0), ("int8", 1)]
    assert [round(one.ratio.value, 3) for one in found.tried] == [1.0, 0.625, 0.625]
    balanced = next(one for one in found.results if one.name == "balanced")
    folder = done.output.path.parent / "balanced"
    engine = Engine(folder / "model.plan")
    assert engine.manifest.onnx_sha256 == Run(folder).models()[-1][1].sha256
    assert engine.manifest.targets == ("sm87",)
    assert balanced.tried.precision == "int8"
    run = Run(folder)
    assert run.called == str(folder)
    summary = rows_from(folder)
    assert summary.rows[-1].latency_missing == "timed on desk"  # here TensorRT's placement says nothing
    assert summary.rows_on_board[-1].versus_first.latency_ratio.value == pytest.approx(0.625, abs=0.01)
    assert "faster on desk" in summary.headline
    assert [one.model for one in summary.boards] == ["01-export", *[one.name for one in summary.rows][-1:]]
    assert summary.boards[-1].layers
    assert len({one.latency.session for one in summary.boards}) == 1
    assert summary.absent == ()
    for board in (None, "desk"):
        judged = gate(folder, GateConfig(min_speedup=1.5, on=board))
        assert (judged.board, [one.passed for one in judged.outcomes]) == ("desk", [True])
    for board in summary.boards:
        stage = next(one for one in summary.stages if one.name == board.stage)
        words = [Path(word) for word in stage.command.split() if word.endswith(".onnx")]
        assert len(words) == 2
        assert all(word.is_file() for word in words)
    assert done.report.results["on"] == "desk"
    assert host.left_behind() == []


@pytest.mark.exhaustive
@pytest.mark.slow
def test_what_each_module_costs_is_told_by_one_profile(host, checkpoint, caplog):
    host.start(FAKE_INT8_MS="1.25")
    asked = {"data": "digits", "images": 64, "budget": "20m", "plan_only": True}
    with caplog.at_level("INFO", "edgeres"):
        done = optimize_call(checkpoint.path, None, asked, {}, "desk")
    assert [one for one in caplog.messages if "building the engine" in one] == [
        f"desk: building the engine of {name}.onnx" for name in ("01-export/model", "03-quantize/model.int8")
    ]
    modules = done.report.results["modules"]
    assert set(modules) == {"layer1.0", "layer2.0", "layer3.0"}
    plan = plan_from(done.output.path.parent / "plan.toml", checkpoint.sha256)
    assert {len(one.ratio) for one in plan.tries} == {1}  # of one engine: how far others are from that nobody knows
    built = [line for line in host.programs() if "--onnx=" in line]
    assert built == []  # nothing is left at work there


def test_threads_are_this_machines(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGERES_BOARDS", str(tmp_path / "boards.toml"))
    (tmp_path / "boards.toml").write_text('[desk]\nhost = "nowhere.invalid"\n')
    with pytest.raises(InputError, match="--threads is for this machine's CPU; leave it out with --on"):
        optimize_call(checkpoint.path, None, {"data": "digits", "threads": 1}, {}, "desk")


def test_a_network_outside_of_runs_is_imported_once(checkpoint, tmp_path, monkeypatch):
    import shutil

    outside = shutil.copyfile(checkpoint.path, tmp_path / "elsewhere.safetensors")
    taken = []
    monkeypatch.setattr("edgeres.optimize.stage.optimize", lambda source, *_: taken.append(source) or 1 / 0)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            optimize_call(outside, None, {"data": "digits"}, {})
    assert [one.path for one in taken] == [tmp_path / "runs" / "elsewhere" / "00-import" / "model.safetensors"] * 2
    (tmp_path / "runs" / "elsewhere" / "01-prune").mkdir()  # by now somebody's own
    with pytest.raises(ZeroDivisionError):
        optimize_call(outside, None, {"data": "digits"}, {})
    assert taken[-1].path == tmp_path / "runs" / "elsewhere-2" / "00-import" / "model.safetensors"
    with pytest.raises(InputError, match="--arch says how a network is imported; this one is in a run"):
        optimize_call(checkpoint.path, None, {"data": "digits"}, {"arch": "resnet8"})


@pytest.mark.parametrize(
    ("data", "is_warned"), [("npy:{}/plain.npy", False), ("npz:{}/numbered.npz", False), ("digits", True)]
)
def test_an_order_of_classes_is_assumed_only_of_images_that_have_classes_by_name(
    checkpoint_of, spec_of, tmp_path, monkeypatch, caplog, data, is_warned
):
    torch.save(load_weights(checkpoint_of(spec_of("resnet8"))), tmp_path / "net.pth")
    pixels = np.random.default_rng(0).integers(0, 256, (2000, 8, 8), np.uint8)
    np.save(tmp_path / "plain.npy", pixels)
    np.savez(tmp_path / "numbered.npz", images=pixels, labels=np.arange(2000) % 10)
    monkeypatch.setattr("edgeres.optimize.stage.optimize", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        optimize_call(tmp_path / "net.pth", None, {"data": data.format(tmp_path)}, {})
    assert any("mean and std were not given" in one for one in caplog.messages)
    assert any("class names were not given" in one for one in caplog.messages) == is_warned


def test_options_are_read_before_anything_is_imported(checkpoint_of, spec_of, tmp_path):
    outside = checkpoint_of(spec_of("resnet8", width=4))
    (empty := tmp_path / "empty.toml").write_text(f'model_sha256 = "{outside.sha256}"\n')
    for values, said in (
        ({"data": "digits", "plan": empty}, "nothing is to be tried"),
        ({}, "data"),
        ({"data": "digits", "budget": "soon"}, "soon"),
        ({"data": "digits", "batch": 0}, "batch"),
    ):
        with pytest.raises(InputError, match=said):
            optimize_call(outside.path, None, values, {})
    with pytest.raises(InputError, match="nosuch"):
        optimize_call(outside.path, None, {"data": "digits"}, {}, "nosuch")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("on", "least"), [("", "23s"), ("desk", "40s")])
def test_a_budget_too_short_for_any_network_is_refused_before_anything_is_done(
    checkpoint_of, spec_of, tmp_path, monkeypatch, on, least
):
    monkeypatch.setenv("EDGERES_BOARDS", str(tmp_path / "boards.toml"))
    (tmp_path / "boards.toml").write_text('[desk]\nhost = "nowhere.invalid"\n')
    outside = checkpoint_of(spec_of("resnet8", width=4))
    for budget in ("5s", f"{int(least[:-1]) - 1}s"):
        with pytest.raises(AlwaysRefused, match=rf"--budget {budget} is too short to try anything: .* {least} or more"):
            optimize_call(outside.path, None, {"data": "digits", "budget": budget}, {}, on)
    with pytest.raises(AlwaysRefused, match="timing the whole network alone takes"):
        optimize_call(outside.path, None, {"data": "digits", "budget": "2s", "plan_only": True}, {}, on)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("had_one", [True, False])
def test_a_refused_call_leaves_the_current_run_as_it_was(checkpoint_of, spec_of, tmp_path, monkeypatch, had_one):
    outside = checkpoint_of(spec_of("resnet8", width=4))
    if had_one:
        other = checkpoint_of(spec_of("resnet8", width=8), "other.safetensors")
        call(Call("import", run="mine", values={"file": other.path}))

    def refused(*_):
        raise AlwaysRefused("--budget 1m is too short")

    monkeypatch.setattr("edgeres.optimize.stage.optimize", refused)
    with pytest.raises(AlwaysRefused):
        optimize_call(outside.path, None, {"data": "digits"}, {})
    if had_one:
        assert latest_run().name == "mine"
    else:
        with pytest.raises(InputError, match="there is no current run"):
            latest_run()
    monkeypatch.setattr(calls, "_called", lambda request: request.source)
    known = optimize_call(outside.path, None, {"data": "digits"}, {})
    assert latest_run().name == known.parents[1].name != "mine"


def test_images_and_board_are_looked_at_before_anything_is_imported(checkpoint_of, spec_of, tmp_path, host):
    outside = checkpoint_of(spec_of("resnet8", width=4))
    np.savez(tmp_path / "few.npz", images=np.zeros((300, 8, 8), np.uint8), labels=np.arange(300) % 10)
    for data, on, said in (
        ("folder:gone", "", "gone does not exist"),
        (f"npz:{tmp_path / 'few.npz'}", "", "are left to judge on, 200 are needed; add images"),
        ("digits", "desk", "desk"),  # where nobody answers
    ):
        with pytest.raises((InputError, DeviceError), match=said):
            optimize_call(outside.path, None, {"data": data}, {}, on)
    with pytest.raises(InputError, match="--threads is for this machine's CPU"):
        optimize_call(outside.path, None, {"data": "digits", "threads": 1}, {}, "desk")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("on", ["", "desk"])
def test_a_call_that_has_finished_shows_what_it_found(checkpoint, monkeypatch, host, caplog, on):
    done = []

    def optimize(source, config, folder, **_):
        done.append(folder)
        (folder / "fast").mkdir()
        (folder / "frontier.json").write_text("{}")
        recorder = Recorder("optimize", config, source, results={"frontier": {"results": [{"name": "fast"}]}})
        return StageResult(FrontierFile(folder / "frontier.json"), recorder.finish(None))

    monkeypatch.setattr("edgeres.optimize.stage.optimize", optimize)
    monkeypatch.setattr(calls, "optimize", optimize)
    monkeypatch.setattr(calls, "check_board", lambda _: SimpleNamespace(model="", l4t="", tensorrt=""))
    asked = {"data": "digits", "latency": "0.5x"}
    first = optimize_call(checkpoint.path, None, asked, {}, on)
    again = optimize_call(checkpoint.path, None, asked, {}, on)
    assert again == first
    assert len(done) == 1
    caplog.set_level("INFO", "edgeres")
    for count, more in enumerate(({"budget": "1h"}, {"latency": "0.4x"}, {"plan_only": True}), start=2):
        caplog.clear()
        optimize_call(checkpoint.path, None, {**asked, **more}, {}, on)
        assert len({*done}) == count
        anew = f"{done[0]} was for --budget 30m, by which go the images judged on"
        assert any(one.startswith(anew) for one in caplog.messages) == ("budget" in more)
    (done[0] / "fast").rmdir()
    optimize_call(checkpoint.path, None, asked, {}, on)
    assert len({*done}) == 5


def test_engines_of_a_call_that_was_refused_are_not_built_again(checkpoint, onnx_of, monkeypatch, host, caplog):
    model, built, spared = onnx_of(), [], []

    def built_there(opened, timeout_s, model, config, engine):
        built.append(model.path)
        engine.path.write_bytes(b"plan")
        engine.manifest_path.write_text("{}")

    def optimize(source, config, folder, *, place):
        spared.append(place.prepare([OnnxModel(model.path)]))
        if config.budget == "1m":
            raise AlwaysRefused("--budget 1m is too short")
        recorder = Recorder("optimize", config, source, results={"frontier": {"results": []}})
        return StageResult(FrontierFile(folder / "frontier.json"), recorder.finish(None))

    monkeypatch.setattr(calls, "optimize", optimize)
    monkeypatch.setattr(calls, "built_there", built_there)
    monkeypatch.setattr(calls, "session", lambda *_: nullcontext())
    monkeypatch.setattr(calls, "check_board", lambda _: SimpleNamespace(model="", l4t="", tensorrt=version))
    monkeypatch.setattr(Engine, "manifest", SimpleNamespace(build_s=90.0))
    version, run = "10.3", checkpoint.path.parents[1]
    with caplog.at_level("INFO", "edgeres"), pytest.raises(AlwaysRefused):
        optimize_call(checkpoint.path, None, {"data": "digits", "budget": "1m"}, {}, "desk")
    assert "what was built on desk is kept for another budget or goal" in caplog.messages
    assert not list(run.glob("*-optimize"))
    optimize_call(checkpoint.path, None, {"data": "digits", "budget": "2m", "plan_only": True}, {}, "desk")
    assert (len(built), spared) == (1, [0.0, 90.0])
    version = "10.4"  # whose engines they are not
    optimize_call(checkpoint.path, None, {"data": "digits", "budget": "2m"}, {}, "desk")
    assert (len(built), spared) == (2, [0.0, 90.0, 0.0])
    assert len(list(run.glob(".engines-*"))) == 1  # of the results that are there it is gone


def test_an_unfinished_call_of_other_options_is_said_to_be_left(checkpoint, monkeypatch, caplog):
    folder = checkpoint.path.parents[1] / "01-optimize"
    folder.mkdir()
    (folder / STARTED_NAME).write_text('{"stage": "optimize", "key": "of other options"}')
    monkeypatch.setattr("edgeres.optimize.stage.optimize", lambda *_: 1 / 0)
    caplog.set_level("INFO", "edgeres")
    with pytest.raises(ZeroDivisionError):
        optimize_call(checkpoint.path, None, {"data": "digits"}, {})
    left = "01-optimize did not finish and goes on by its own options, --budget among them; this is anew"
    assert any(one.endswith(left) for one in caplog.messages)
