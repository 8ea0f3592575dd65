"""What a report makes of an agent's answer; the answers are made up."""

import pytest

from edgeres.bench.board_answers import MeasureDone
from edgeres.bench.board_figures import P99_CALLS, doubts_of, energy_notes, figures_of, p99_notes

CLOCK = {"lowest": 624, "median": 624, "highest": 624}
UNSEEN = "no sample of tegrastats came under load: the run was too short"


@pytest.fixture
def answer_of(answers):
    """What an agent measured."""
    usual = answers[MeasureDone]

    def make(*, calls=P99_CALLS, clock=CLOCK, problems=(), half=0.4, energy=None):
        heat = usual["heat"] | {"gpu_mhz": clock, "clock_unknown": None if clock else UNSEEN}
        energy = energy or usual["energy"] | {"mj_half_width": half}
        more = {"samples_ms": [1.0] * calls, "p99_ms": 1.0, "problems": problems, "heat": heat, "energy": energy}
        return MeasureDone.model_validate(usual | more)

    return make


@pytest.mark.parametrize(
    ("clock", "problems", "is_valid"),
    [(CLOCK, (), True), (None, (), None), (CLOCK, ("it throttled",), False), (None, ("it throttled",), False)],
)
def test_a_run_whose_clock_was_not_seen_is_neither_valid_nor_invalid(answer_of, clock, problems, is_valid):
    answer = answer_of(clock=clock, problems=problems)
    assert figures_of(answer)["is_valid"] is is_valid
    said = [f"whether the GPU's clock held still under load is unknown: {UNSEEN}"]
    assert doubts_of(answer) == (said if is_valid is None else [])


def test_a_99th_percentile_takes_its_calls_and_says_how_long_that_takes(answer_of):
    assert P99_CALLS == 368
    assert figures_of(answer_of())["p99_ms"] == 1.0
    assert p99_notes(answer_of(), 10) == []
    few = answer_of(calls=200)
    assert figures_of(few)["p99_ms"] is None
    assert p99_notes(few, 10) == ["p99 needs 368 calls, there were 200; measure longer: --duration-s 21"]


@pytest.mark.parametrize(("half", "notes"), [(0.002, 1), (0.5, 0)])
def test_a_width_made_of_tegrastats_steps_alone_is_told(answer_of, half, notes):
    found = energy_notes(answer_of(half=half))
    assert len(found) == notes
    assert all("the step of 1 mW" in note and "how far the sensor is off is not in it" in note for note in found)


def test_no_energy_says_why(answer_of):
    assert energy_notes(answer_of(energy={"reason": "too few"})) == ["no energy: too few"]
