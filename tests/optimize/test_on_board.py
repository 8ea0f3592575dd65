"""The same on a board: a pretend Jetson behind a real ssh server; its trtexec takes 2 ms, 1.25 for Q/DQ networks."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from edgeres.core.artifacts import Engine
from edgeres.core.config import record_from_json
from edgeres.core.errors import InputError
from edgeres.core.records.frontier import Frontier
from edgeres.core.runs import Run
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
def test_what_each_module_costs_is_told_by_one_profile(host, checkpoint):
    host.start(FAKE_INT8_MS="1.25")
    asked = {"data": "digits", "images": 64, "budget": "20m", "plan_only": True}
    done = optimize_call(checkpoint.path, None, asked, {}, "desk")
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


def test_options_are_read_before_anything_is_imported(checkpoint_of, spec_of, tmp_path):
    outside = checkpoint_of(spec_of("resnet8", width=4))
    for values, said in (
        ({}, "data"),
        ({"data": "digits", "budget": "soon"}, "soon"),
        ({"data": "digits", "batch": 0}, "batch"),
    ):
        with pytest.raises(InputError, match=said):
            optimize_call(outside.path, None, values, {})
    with pytest.raises(InputError, match="nosuch"):
        optimize_call(outside.path, None, {"data": "digits"}, {}, "nosuch")
    assert not (tmp_path / "runs").exists()
