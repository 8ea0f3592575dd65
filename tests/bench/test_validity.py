from pathlib import Path

import pytest

from edgeres.bench.session import Measured
from edgeres.bench.validity import Around, outliers_in, verdict_from, warnings_for
from edgeres.bench.watch import Reading
from edgeres.bench.worker import Job, Ready
from edgeres.core.metrics import Latency

QUIET = Around(0.0, 0.0)


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    monkeypatch.setattr("edgeres.bench.validity.available_cores", lambda: 2)


def doubts(rounds, *, stable=True, around=QUIET):
    measured = Measured(Job(path=Path("m.onnx"), batch=1, threads=1), Ready(runtime="", warmup=1, stable=stable))
    return warnings_for(["m.onnx"], [latency_of(rounds)], measured=[measured], around=around)


def latency_of(rounds):
    return Latency(
        samples_ms=tuple(sample for samples in rounds for sample in samples),
        rounds=tuple(len(samples) for samples in rounds),
        batch=1,
        runtime="",
        threads=1,
        session="",
        artifact="",
        warmup=1,
        machine="",
    )


def readings(*loads, clocks=None):
    clocks = clocks or [None] * len(loads)
    return tuple(
        Reading(at_s=at, other_cores=load, clock_mhz=clock)
        for at, (load, clock) in enumerate(zip(loads, clocks, strict=True))
    )


STEADY = [[1.0] * 10] * 20
HOG_HALFWAY = [[1.0] * 10] * 10 + [[1.5] * 10] * 10


@pytest.mark.parametrize(
    ("rounds", "stable", "around", "expected"),
    [
        (STEADY, True, QUIET, []),
        (STEADY, True, Around(None, None), []),
        (STEADY, True, Around(0.0, 1.0), ["machine busy: other programs kept 1.0 of 2 cores right after"]),
        (STEADY, True, Around(0.0, 0.0, readings(0, 0, 1, 1)), ["machine busy: other programs kept 0.5 of 2 cores d"]),
        (STEADY, True, Around(0.0, 0.0, readings(0, 0, 0, 0.8)), ["machine busy at times: in 1 of 4 readings"]),
        (STEADY, True, Around(0.0, 0.0, readings(*[0] * 9, 0.8)), []),
        (
            STEADY,
            True,
            Around(0.0, 0.0, readings(*[0] * 6, clocks=[4000.0] * 3 + [2000.0] * 3)),
            ["the clock fell from 4,000 to 2,000 MHz"],
        ),
        (STEADY, False, QUIET, ["m.onnx: speed still changed"]),
        ([[1.0] * 8 + [9.0] * 2] * 20, True, QUIET, ["p90 over median is 9.00 for m.onnx, above 1.3"]),
        ([[1.0] * 14 + [9.0]] * 20, True, QUIET, ["m.onnx: 7 % of 300 calls are outliers"]),
        (HOG_HALFWAY, True, QUIET, ["m.onnx: from round 11 of 20 on 1.50 times as slow as before"]),
    ],
)
def test_a_doubtful_session_says_what_to_do(rounds, stable, around, expected):
    found = [one for one in doubts(rounds, stable=stable, around=around) if "median is 1.50" not in one]
    assert len(found) == len(expected)
    assert all(warning.startswith(text) and ";" in warning for text, warning in zip(expected, found, strict=True))


@pytest.mark.parametrize("rounds", [HOG_HALFWAY, [[1.0] * 8 + [9.0] * 2] * 20, [[1.0] * 14 + [9.0]] * 20])
def test_slow_calls_are_laid_on_other_programs_only_where_those_were_seen(rounds):
    """Of twelve readings one was busy: too few for a warning of their own, and reason enough for slow calls."""
    *_, unseen = doubts(rounds, around=Around(0.1, 0.0, readings(*[0.2] * 6)))
    *_, unknown = doubts(rounds, around=Around(None, None))
    *_, seen = doubts(rounds, around=Around(0.1, 0.0, readings(*[0.0] * 11, 0.8)))
    assert "; why is not known (other programs kept 0.2 of 2 cores at most; the clock? a shared host?): run" in unseen
    assert "; why is not known (other programs cannot be seen here; the clock? a shared host?): run" in unknown
    assert "; stop other programs and run again" in seen


def test_many_outliers_leave_the_median_known():
    (said,) = doubts([[1.0, 1.1] * 5 + [9.0]] * 20)
    many = "m.onnx: 9 % of 220 calls are outliers (20 slow) and p95 is 8.18 of the median; that is known to 0.0 %;"
    assert said.startswith(many)


def test_outliers_near_the_median_are_no_doubt():
    """A call of 0.04 ms has quartiles 1 µs apart, so that 3 µs stand out: that share alone says nothing of a p95."""
    rounds = [[1.0, 1.01] * 10 + [1.2] * 4] * 20
    assert outliers_in(latency_of(rounds)).share > 0.15
    assert doubts(rounds) == []


def test_when_a_machine_was_busy_is_told_beside_what_it_was_else():
    around = Around(1.0, 0.2, readings(0.0, 0.0))
    (said,) = doubts(STEADY, around=around)
    assert "other programs kept 1.0 of 2 cores right before the session (right after 0.2, during 0.0); stop" in said


def test_a_speed_up_on_the_way_is_told_too():
    assert any("1.50 times as fast as before" in warning for warning in doubts(HOG_HALFWAY[::-1]))


def test_the_verdict_is_invalid_for_the_machine_and_doubtful_for_the_samples():
    busy, quiet = Around(0.0, 1.0), Around(0.0, 0.1)
    assert verdict_from(quiet, []) == "steady"
    assert verdict_from(busy, doubts(STEADY, around=busy)).startswith("invalid: machine busy: other programs kept 1.0")
    assert verdict_from(quiet, doubts(HOG_HALFWAY)).startswith("doubtful: m.onnx: ")
    assert verdict_from(quiet, ["a; do b", "c; do d"]) == "doubtful: a (and 1 more, see the warnings)"


def test_the_most_of_before_during_and_after_counts():
    assert Around(0.4, 0.1, readings(0.2, 0.2)).busy_cores == 0.4
    assert Around(0.0, 0.1, readings(0.2, 0.4)).busy_cores == pytest.approx(0.3)
    assert Around(None, None).busy_cores is None


@pytest.mark.parametrize(
    ("command", "longer", "advised"),
    [
        ("edgeres bench", "edgeres bench --seconds 20", "time longer: edgeres bench --seconds 20"),
        ("the same edgeres optimize", "", "run again: the same edgeres optimize"),
        ("", "", "run again"),
    ],
)
def test_what_has_no_seconds_is_not_told_to_take_more(command, longer, advised):
    measured = Measured(Job(path=Path("m.onnx"), batch=1, threads=1), Ready(runtime="", warmup=1, stable=True))
    latency = latency_of([[1.0] * 8 + [9.0] * 2] * 20)
    how = {"measured": [measured], "around": QUIET, "command": command, "longer": longer}
    (said,) = warnings_for(["less 4, int8"], [latency], **how)
    why = "why is not known (other programs kept 0.0 of 2 cores at most; the clock? a shared host?)"
    assert said == f"p90 over median is 9.00 for less 4, int8, above 1.3; {why}: {advised}"


def test_what_a_board_calls_invalid_is_invalid():
    said = ["whether the GPU's clock held still is unknown: why", "invalid: the clock moved; lock it"]
    assert verdict_from(Around(None, None), said) == "invalid: the clock moved (and 1 more, see the warnings)"
    assert verdict_from(Around(None, None), said[:1]).startswith("doubtful: ")


def test_of_many_wide_models_the_widest_are_named():
    tails = [2.0, 9.0, 3.0, 4.0, 1.0]
    measured = Measured(Job(path=Path("m.onnx"), batch=1, threads=1), Ready(runtime="", warmup=1, stable=True))
    latencies = [latency_of([[1.0] * 8 + [tail] * 2] * 20) for tail in tails]
    names = [f"{tail:g}.onnx" for tail in tails]
    (said,) = warnings_for(names, latencies, measured=[measured] * len(tails), around=QUIET)
    assert said.startswith("p90 over median is 9.00 for 9.onnx, 4.00 for 4.onnx, 3.00 for 3.onnx and 1 more, above 1.3")
