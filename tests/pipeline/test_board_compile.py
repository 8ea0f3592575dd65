"""An engine that a board built arrives with its manifest, or not at all; no board is asked."""

import hashlib
from contextlib import nullcontext

import pytest

from edgeres.bench.board_answers import BuildDone, JobDone, MeasureDone
from edgeres.bench.boards import Board
from edgeres.cli.main import _run
from edgeres.core.artifacts import Engine
from edgeres.core.config import record_from_json
from edgeres.core.errors import DeviceError, InputError
from edgeres.core.stage import StageReport
from edgeres.pipeline import board_stages
from edgeres.pipeline.calls import Call
from edgeres.pipeline.calls import call as call_stage
from edgeres.report.folder import FinishedStage, command_of

PLAN = b"a plan"


class FakeSession:
    """A fake of a board at work: `fails` names what goes wrong there."""

    board, folder, system = Board(name="desk", host="nowhere.invalid"), "/tmp/edgeres-run-x", "linux aarch64"

    def __init__(self, answers, found, fails):
        self.answers, self.found, self.fails = answers, found, fails

    def claim(self):
        return []

    def need(self, amount, what):
        pass

    def upload(self, source, name):
        return f"{self.folder}/{name}"

    def remove(self, *names):
        pass

    def agent(self, kind, *words, takes_s=0.0):
        if kind.job == self.fails:
            raise DeviceError(f"desk: {kind.job} is not understood")
        return self.answers.get(kind, JobDone(restored=()))

    def download(self, name, out, sha256, size):
        if self.fails == "download":
            raise DeviceError("desk: the connection was lost")
        assert (sha256, size) == (hashlib.sha256(PLAN).hexdigest(), len(PLAN))
        out.write_bytes(PLAN)


@pytest.fixture
def compiled(found_of, onnx_of, tmp_path, monkeypatch):
    """`compiled(fails)`: a call that writes x.plan; returns the path."""
    monkeypatch.setenv("EDGERES_BOARDS", str(tmp_path / "boards.toml"))
    (tmp_path / "boards.toml").write_text('[desk]\nhost = "nowhere.invalid"\n')
    plan = {"engine_sha256": hashlib.sha256(PLAN).hexdigest(), "engine_bytes": len(PLAN), "is_strongly_typed": True}
    did = {"restored": (), "tensorrt": "10.3.0", "command": ("trtexec",), "warnings": ()}
    found = found_of(capability="8.7", model="NVIDIA Jetson Orin NX 16GB")
    measured = MeasureDone.model_construct(**did, board=found, gpu="Orin", clocks_locked=False, layers='{"Layers": []}')
    answers = {BuildDone: BuildDone(**did, **plan, facts={}), MeasureDone: measured}
    source, out = onnx_of().path, tmp_path / "x.plan"

    def call(fails):
        opened = FakeSession(answers, found, fails)
        monkeypatch.setattr(board_stages, "session", lambda board: nullcontext(opened))
        call_stage(Call("compile", source, out=out, on="desk"))

    return call, out


def beside(out):
    return {path.name: path.read_bytes() for path in out.parent.iterdir() if path.name.startswith(out.name)}


def test_a_plan_arrives_with_its_manifest_and_layers(compiled):
    call, out = compiled
    call(None)
    assert out.read_bytes() == PLAN
    assert Engine(out).manifest.targets == ("sm87",)
    assert set(beside(out)) == {"x.plan", "x.plan.json", "x.plan.layers.json", "x.plan.report.json"}


def test_the_recorded_command_is_taken_again(compiled, monkeypatch):
    call, out = compiled
    call(None)
    report = record_from_json(StageReport, out.with_name("x.plan.report.json"))
    command = command_of(FinishedStage(out.parent, report, None), [])
    assert command == f"edgeres compile {report.source.path} --on desk"
    out.unlink()
    monkeypatch.setattr("sys.argv", [*command.split(), "-o", str(out)])
    assert _run() == 0
    assert out.read_bytes() == PLAN


def full(path, text):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("fails", ["build", "measure", "download", "a full disk"])
def test_a_call_that_fails_leaves_no_plan_and_what_was_there(compiled, fails, monkeypatch):
    call, out = compiled
    if fails == "a full disk":
        monkeypatch.setattr(board_stages, "write_text", full)
    with pytest.raises((DeviceError, InputError)):
        call(fails)
    assert beside(out) == {}


@pytest.mark.parametrize("fails", ["build", "measure", "download"])
def test_a_call_that_fails_leaves_an_earlier_engine_as_it_was(compiled, fails):
    call, out = compiled
    call(None)
    before = beside(out)
    with pytest.raises(DeviceError):
        call(fails)
    assert beside(out) == before
