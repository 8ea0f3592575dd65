import json

import pytest

from edgeres.bench.session import Measured
from edgeres.bench.worker import Ready
from edgeres.core.artifacts import model_from

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


def test_a_session_that_is_not_kept_says_why_and_how(
    edgeres, checkpoint, sessions, checkpoint_of, spec_of, runs_folder
):
    assert edgeres("import", checkpoint)[0] == 0
    own = runs_folder / "model" / "00-import" / "model.safetensors"
    other = checkpoint_of(spec_of("resnet8"), "other.safetensors", 5).path
    out = edgeres("bench", own, other, "--run", "model")[1]
    assert f"not kept in {runs_folder}/model, which did not make {other}; without FILES bench keeps" in out
    assert "not kept in the run; --run model keeps it there" in edgeres("bench", own)[1]
    assert "not kept" not in edgeres("bench", other)[1]


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
