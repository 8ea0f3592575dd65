import json
import re
import shlex

import pytest

from edgeres.bench.session import Measured
from edgeres.bench.worker import Ready
from edgeres.core.artifacts import model_from
from edgeres.export.stage import ExportConfig, export
from edgeres.quantize.calibrate import CalibrateConfig, calibrate
from edgeres.quantize.stage import QuantizeConfig, quantize

from .conftest import understood

QUICK = ("--networks", 4, "--rounds", 5, "--threads", 1)


@pytest.fixture
def edgeres(aloud):
    return aloud


@pytest.fixture
def checkpoint(checkpoint_of, spec_of):
    return checkpoint_of(spec_of("resnet8")).path


@pytest.fixture
def sessions(monkeypatch):
    """Instead of processes: a millisecond for the whole network and 0.2 less for each module; counts the sessions."""
    held = []

    def measure(jobs, turn, *, rounds, seed, enough, watch):
        held.append(len(jobs))
        ready = Ready(runtime="fake", warmup=1, stable=True)
        times = [1.0 - 0.2 * len(model_from(job.path).spec.dropped) for job in jobs]
        return "session", [Measured(job, ready, [[ms] * 2] * rounds) for job, ms in zip(jobs, times, strict=True)]

    monkeypatch.setattr("edgeres.bench.stage.measure_interleaved", measure)
    monkeypatch.setattr("edgeres.bench.stage.busy_cores", lambda: 0.0)
    return held


@pytest.fixture
def int8_of(tmp_path):
    """A Q/DQ graph placed for TensorRT, quantized from random scales."""

    def made(path):
        whole = export(model_from(path), ExportConfig(), tmp_path / "float").output
        scales = calibrate(whole, CalibrateConfig(data="digits", images=32), tmp_path / "scales").output.path
        return quantize(whole, QuantizeConfig(scales=scales, effort="quick"), tmp_path / "int8").output.path

    return made


def test_a_table_goes_into_the_run(edgeres, checkpoint, sessions, runs_folder):
    assert edgeres("import", checkpoint)[0] == 0
    code, out, err = edgeres("bench", "--per-module", *QUICK)
    assert code == 0, err
    assert "whole 1.000 ms" in out
    table = json.loads((runs_folder / "model" / "01-latency" / "latency.json").read_text())
    assert [round(row["saved_ms"]["value"], 6) for row in table["table"]] == [0.2] * 3
    assert sessions == [7]


def test_a_table_goes_where_it_is_wanted(edgeres, checkpoint, sessions, tmp_path):
    code, _, err = edgeres("bench", "--per-module", checkpoint, *QUICK, "-o", "table.json")
    assert code == 0, err
    assert json.loads((tmp_path / "table.json").read_text())["kind"] == "latencies"


def test_a_session_is_kept_in_the_run_whose_files_it_times_and_says_where(edgeres, checkpoint, sessions, runs_folder):
    assert edgeres("import", checkpoint)[0] == 0
    file = runs_folder / "model" / "00-import" / "model.safetensors"
    for number, arguments in enumerate(((), (file,)), 1):
        code, _, err = edgeres("bench", *arguments, "--run", "model")
        assert code == 0, err
        assert f"bench: wrote {runs_folder}/model/{number:02d}-bench/report.json" in err
        assert (runs_folder / "model" / f"{number:02d}-bench" / "report.json").is_file()


@pytest.mark.parametrize(
    "words",
    [
        ("bench", "INT8", "--include-qdq", "--rounds", "3"),
        ("bench", "INT8", "FLOAT", "--samples", "40", "--seconds", "30", "--include-qdq", "--threads", "1"),
        ("bench", "--run", "model", "--precision", "5%"),
        ("bench", "FLOAT", "--run", "model", "--batches", "1,2"),
        ("compare", "FLOAT", "INT8", "--include-qdq", "--sessions", "2"),
    ],
)
def test_what_is_advised_is_the_same_once_more(edgeres, checkpoint, sessions, int8_of, monkeypatch, words):
    assert edgeres("import", checkpoint)[0] == 0
    monkeypatch.setattr("edgeres.bench.stage.busy_cores", lambda: 99.0)
    files = {"FLOAT": "runs/model/00-import/model.safetensors", "INT8": str(int8_of(checkpoint))}
    words = [files.get(word, word) for word in words]
    code, out, err = edgeres(*words)
    assert code == 0, err
    asked = understood(shlex.join(["edgeres", *words]))
    advised = set(re.findall(rf"edgeres {words[0]}[^\n;]*", out + err))
    assert len(advised) == (2 if words[0] == "bench" else 1)
    for line in advised:
        more = understood(line)
        changed = {name for name, value in asked.items() if more[name] != value}
        assert len(changed & {"samples", "seconds"}) == len(changed) <= 1, line
        assert all(float(more[name]) > float(asked[name] or 0) for name in changed)


def test_a_session_that_is_not_kept_says_why_and_how(
    edgeres, checkpoint, sessions, checkpoint_of, spec_of, runs_folder
):
    assert edgeres("import", checkpoint)[0] == 0
    own = runs_folder / "model" / "00-import" / "model.safetensors"
    other = checkpoint_of(spec_of("resnet8"), "other.safetensors", 5).path
    out = edgeres("bench", own, other, "--run", "model")[1]
    assert f"not kept in {runs_folder}/model, which did not make {other}; without FILES bench keeps" in out
    assert "not kept in the run; --run model keeps it there" in edgeres("bench", own)[1]
    assert "not kept: no stage of a run made it" in edgeres("bench", other)[1]
    assert "not kept: the files are not of one run" in edgeres("bench", own, other)[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--per-module", "--samples", "9"], "--samples does not go with --per-module"),
        (["--per-module", "--include-qdq"], "--include-qdq does not go with --per-module"),
        (["--networks", "9"], "--networks is for --per-module"),
        (["-o", "table.json"], "--out is for --per-module"),
        (["--per-module", "a.safetensors", "b.safetensors"], "takes one checkpoint, got 2"),
        (["--per-module", "--precision", "int8", "--runtime", "torch"], "--runtime ort"),
        (["--per-module", "--rounds", "2"], "rounds"),
        (["--per-module", "model.onnx"], "does not exist"),
    ],
)
def test_options_that_do_not_fit_are_refused(edgeres, checkpoint, sessions, arguments, message):
    assert edgeres("import", checkpoint)[0] == 0
    code, out, err = edgeres("bench", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert sessions == []
