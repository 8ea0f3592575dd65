"""A verdict follows from ratios round by round; the sessions here are made up."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeres.bench.session import Measured
from edgeres.bench.stage import Session
from edgeres.bench.validity import Around, machine_doubts
from edgeres.bench.versus import (
    VersusConfig,
    ratios_of,
    speed_interval,
    verdict_on,
    versus,
    why_invalid,
    word_for,
)
from edgeres.bench.watch import Reading
from edgeres.bench.worker import Ready
from edgeres.core.errors import InputError
from edgeres.core.metrics import Interval, Latency

NAMES = ("a.onnx", "b.onnx")
CONFIG = VersusConfig(rounds=5)


def session(speed, seed, *, drift=None, rounds=20, start=0.002):
    """(A, B) of one session: what disturbs a round disturbs both, each process start has its own luck."""
    generator = np.random.default_rng(seed)
    rounds_ms = drift if drift is not None else generator.uniform(1, 1.5, rounds)
    luck = generator.normal(1, start, 2)
    return tuple(latency(ms * luck[side] * rounds_ms, generator) for side, ms in enumerate((1.0, 1.0 / speed)))


def latency(medians, generator):
    calls = 9
    samples = medians[:, None] * (1 + 0.01 * generator.standard_normal((len(medians), calls)))
    return Latency(
        samples_ms=tuple(samples.ravel().tolist()),
        batch=1,
        runtime="fake",
        threads=1,
        session="s",
        artifact="x",
        warmup=1,
        machine="m",
        rounds=(calls,) * len(medians),
    )


def ratios(speed, seed, sessions=3, **options):
    pairs = [session(speed, seed + index, **options) for index in range(sessions)]
    return ratios_of([a for a, _ in pairs], [b for _, b in pairs])


def test_a_model_is_not_faster_than_itself():
    words = [verdict_on(NAMES, ratios(1.0, 10 * trial), CONFIG).word for trial in range(20)]
    assert set(words) <= {"not distinguishable", "open"}


@pytest.mark.parametrize(("speed", "word"), [(1.05, "faster"), (1 / 1.05, "slower")])
def test_a_real_difference_is_found_and_its_interval_holds_it(speed, word):
    found = [verdict_on(NAMES, ratios(speed, 10 * trial), CONFIG) for trial in range(20)]
    assert [verdict.word for verdict in found].count(word) >= 19
    holding = [verdict.speed.low <= speed <= verdict.speed.high for verdict in found]
    assert sum(holding) >= 14


def test_a_machine_that_slows_down_on_the_way_changes_no_verdict():
    slowing = np.linspace(1, 4, 20)
    assert verdict_on(NAMES, ratios(1.0, 0, drift=slowing), CONFIG).word in {"not distinguishable", "open"}
    speed = verdict_on(NAMES, ratios(1.2, 0, drift=slowing), CONFIG).speed
    assert speed.value == pytest.approx(1.2, rel=0.01)


def test_the_luck_of_process_starts_is_in_the_interval():
    lucky, alike = (speed_interval(ratios(1.0, 3, start=start)) for start in (0.03, 0.0))
    assert lucky.high - lucky.low > 3 * (alike.high - alike.low)


@given(st.floats(0.5, 2), st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_swapping_the_models_turns_the_speed_around(speed, seed):
    pairs = [session(speed, seed + index) for index in range(2)]
    a, b = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    forth, back = speed_interval(ratios_of(a, b)), speed_interval(ratios_of(b, a))
    assert forth.value * back.value == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (1.02, 1.03, "faster"),
        (0.95, 0.97, "slower"),
        (0.995, 1.005, "not distinguishable"),
        (1.005, 1.03, "open"),
        (0.9, 1.1, "open"),
    ],
)
def test_words_follow_from_the_interval_and_the_resolution(low, high, word):
    assert word_for(Interval(value=(low + high) / 2, low=low, high=high)) == word


def test_sentences_say_who_is_faster_by_how_much():
    assert verdict_on(NAMES, [np.full(5, 1.31)] * 2, CONFIG).sentence == (
        "b.onnx is 1.31x faster than a.onnx (95 %: 1.310 to 1.310)"
    )
    assert verdict_on(NAMES, [np.full(5, 0.5)] * 2, CONFIG).sentence.startswith("b.onnx is 2.00x slower than a.onnx")
    assert verdict_on(NAMES, [np.full(5, 1.001)] * 2, CONFIG).sentence.startswith("not distinguishable at 1 %")


@pytest.fixture
def four_cores(monkeypatch):
    monkeypatch.setattr("edgeres.bench.validity.available_cores", lambda: 4)


def test_one_busy_session_makes_it_invalid_and_is_named(four_cores):
    reason = why_invalid([session_in(Around(0.5, None)), session_in(Around(1.1, 0.7)), session_in(Around(None, None))])
    kept = "1.1 of 4 cores right before the session (right after 0.7)"
    assert reason == f"machine busy: other programs kept {kept} (session 2 of 3)"
    assert why_invalid([session_in(Around(0.5, None)), session_in(Around(None, None))]) == ""
    verdict = verdict_on(NAMES, ratios(2.0, 0), CONFIG, invalid=reason)
    assert verdict.word == "invalid"
    assert verdict.sentence.startswith("invalid: machine busy")


def session_in(around):
    """Of nothing, with what the machine around it says."""
    return Session((), tuple(machine_doubts(around)), around)


def test_a_clock_that_fell_makes_it_invalid():
    readings = [Reading(at_s=second, other_cores=0.0, clock_mhz=4000 if second < 5 else 2800) for second in range(10)]
    reason = why_invalid([session_in(Around(0.0, 0.0)), session_in(Around(0.0, 0.0, tuple(readings)))])
    assert reason == "the clock fell from 4,000 to 2,800 MHz during the session (session 2 of 2)"


@pytest.fixture
def fake_sessions(monkeypatch):
    """Instead of processes: 2, 1 and 4 ms; keeps the seeds of the sessions held."""
    held = []

    def measure(jobs, turn, *, rounds, seed, enough, watch):
        held.append(seed)
        ready = Ready(runtime="fake", warmup=1, stable=True)
        times = {job.path.name: ms for job, ms in zip(jobs, (2.0, 1.0, 4.0), strict=False)}
        return "session", [Measured(job, ready, [[times[job.path.name]] * 2] * rounds) for job in jobs]

    monkeypatch.setattr("edgeres.bench.stage.measure_interleaved", measure)
    monkeypatch.setattr("edgeres.bench.stage.busy_cores", lambda: 0.0)
    return held


def test_models_are_held_against_the_first_in_sessions_of_their_own_order(fake_sessions, checkpoint_of, spec_of):
    models = [checkpoint_of(spec_of("resnet8"), f"{name}.safetensors", seed) for seed, name in enumerate("abc")]
    found = versus(models, CONFIG)
    assert [verdict.word for verdict in found.verdicts] == ["faster", "slower"]
    assert [verdict.speed.value for verdict in found.verdicts] == [2.0, 0.5]
    assert fake_sessions == [0, 1, 2]
    assert found.models[0].samples == 2 * CONFIG.rounds * CONFIG.sessions


@pytest.mark.parametrize(("other_cores", "any_load"), [(0.5, False), (0.7, False), (0.7, True)])
def test_the_verdict_is_invalid_just_where_a_warning_says_the_machine_is_busy(
    fake_sessions, four_cores, monkeypatch, checkpoint_of, spec_of, other_cores, any_load
):
    monkeypatch.setattr("edgeres.bench.stage.busy_cores", lambda: other_cores)
    models = [checkpoint_of(spec_of("resnet8"), f"{name}.safetensors", seed) for seed, name in enumerate("ab")]
    found = versus(models, VersusConfig(rounds=5, threads=1, any_load=any_load))
    is_busy = other_cores > 0.6
    assert (found.verdicts[0].word == "invalid") == (is_busy and not any_load)
    again = f"edgeres compare {models[0].path} {models[1].path} --threads 1 --rounds 5"
    kept = "0.7 of 4 cores right before the session (right after 0.7)"
    advice = f"other programs kept {kept}; stop them and run again: {again}{' --any-load' * any_load}"
    assert found.warnings == tuple(f"session {one} of 3: machine busy: {advice}" for one in (1, 2, 3) if is_busy)


def test_a_file_listed_twice_is_numbered(fake_sessions, checkpoint_of, spec_of):
    twice = [checkpoint_of(spec_of("resnet8"))] * 2
    (verdict,) = versus(twice, CONFIG).verdicts
    assert verdict.b == f"{verdict.a} (2)"
    assert not verdict.a.startswith("/")


def test_one_model_cannot_be_compared(checkpoint_of, spec_of):
    with pytest.raises(InputError, match="two models or more"):
        versus([checkpoint_of(spec_of("resnet8"))], CONFIG)


@pytest.mark.slow
def test_a_file_against_itself_in_real_processes(onnx_of):
    model = onnx_of()
    found = versus([model, model], VersusConfig(rounds=5, seconds=0.3, sessions=2, threads=1, any_load=True))
    assert found.verdicts[0].b.endswith("(2)")
    assert found.models[0].artifact == found.models[1].artifact == model.sha256
