import pytest

from edgeres.report.page_text import way_rows
from edgeres.report.rows import rows_from
from edgeres.report.wording import cells

from .conftest import interval

VERDICT = "invalid: machine busy: other programs kept 2.0 of 2 cores"


def timed(run, warnings=(), **results):
    _, first = run.model("import", "model.safetensors", 1000)
    _, second = run.model("prune", "model.safetensors", 900, source=first)
    row = {
        "path": "runs/fake/00-import/model.safetensors",
        "artifact": first.sha256,
        "runtime": "torch 2.6.0 cpu",
        "batch": 8,
        "p50_ms": interval(16.0, 0.5),
        "images_per_s": interval(500.0, 20.0),
        "samples": 300,
    }
    whole = {"files": 256, "models": [{**row, "batch": 1, "parts_ms": {"decode": 0.5, "inference": 15.0}}]}
    figures = {"session": "fake", "throughput": [row], "end_to_end": whole, **results}
    run.stage("bench", latency=(run.latency(first, 10.0), run.latency(second, 5.0)), results=figures, warnings=warnings)
    return rows_from(run.path)


def test_throughput_and_the_way_end_to_end_have_rows(fake_run):
    summary = timed(fake_run)
    assert [(one.name, one.way, one.batch) for one in summary.ways] == [
        ("00-import", "inference", 8),
        ("00-import", "end to end", 1),
    ]
    assert way_rows(summary)[0][1] == ("500", "[480, 520]")
    assert way_rows(summary)[1][3] == ("decode 0.500, inference 15.0",)


def test_an_invalid_session_is_said_in_headline_table_and_warnings(fake_run):
    summary = timed(fake_run, verdict=VERDICT)
    assert "2.0× faster in an invalid session" in summary.headline
    assert summary.rows[0].latency.verdict == VERDICT
    assert f"02-bench: {VERDICT}" in summary.warnings


def test_what_made_a_session_invalid_is_said_once(fake_run):
    busy = "machine busy: other programs kept 2.0 of 2 cores"
    told = (f"{busy}; stop them and run again", "p90 over median is 2")
    summary = timed(fake_run, told, verdict=f"invalid: {busy} (and 1 more, see the warnings)")
    assert summary.warnings == (f"02-bench: invalid: {told[0]}", f"02-bench: {told[1]}")


def test_a_valid_session_is_not_called_invalid(fake_run):
    summary = timed(fake_run, verdict="valid: precision 1 %")
    assert "invalid" not in summary.headline
    assert summary.warnings == ()


@pytest.mark.parametrize(
    "damage", [{"throughput": [3]}, {"throughput": [{"batch": "x"}]}, {"end_to_end": {"models": [{}]}}]
)
def test_damaged_throughput_is_told(fake_run, damage):
    summary = timed(fake_run, **damage)
    assert summary.ways == ()
    assert any("its throughput cannot be read" in problem for problem in summary.problems)


def test_a_p99_of_few_calls_has_no_interval(fake_run):
    _, first = fake_run.model("import", "model.safetensors", 1000)
    many = fake_run.latency(first, 10.0)
    few = many.model_copy(update={"samples_ms": many.samples_ms[:100], "rounds": (5,) * 20})
    fake_run.stage("bench", latency=(few,))
    row = rows_from(fake_run.path).rows[0]
    assert row.latency.p99_ms.low is None
    assert "p99 needs 368 calls" in " ".join(cells(row)["latency"])
    fake_run.stage("bench", latency=(many,))
    assert rows_from(fake_run.path).rows[0].latency.p99_ms.low is not None


def test_a_session_that_was_measured_again_is_no_warning_any_more(fake_run):
    _, first = fake_run.model("import", "model.safetensors", 1000)
    for verdict, told in ((VERDICT, ("p90 over median is 2",)), ("steady", ())):
        latency = fake_run.latency(first, 10.0 if told else 9.0)
        fake_run.stage("bench", latency=(latency,), results={"session": "s", "verdict": verdict}, warnings=told)
    summary = rows_from(fake_run.path)
    assert [stage.superseded for stage in summary.stages] == [False, True, False]
    assert summary.warnings == ()
    assert summary.stages[1].warnings == (VERDICT, "p90 over median is 2")
