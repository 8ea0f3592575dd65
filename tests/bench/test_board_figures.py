"""What a report makes of an agent's answer; the answers are made up."""

from types import SimpleNamespace

import pytest

from edgeres.bench.board_answers import MeasureDone, NotWeighed, PowerMode
from edgeres.bench.board_figures import P99_CALLS, distinct, joined, note, shares_of
from edgeres.bench.config import BoardConfig
from edgeres.core.stage import Recorder

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


def noted(answer):
    config = BoardConfig(duration_s=10)
    recorder = Recorder("board", config, SimpleNamespace(sha256="0" * 64), results={"figures": {}})
    note(recorder, answer, config, machine="m", session="s", rounds=())
    return recorder


def figures_of(answer):
    return noted(answer).results["figures"]


@pytest.mark.parametrize(
    ("clock", "problems", "is_valid"),
    [(CLOCK, (), True), (None, (), None), (CLOCK, ("it throttled",), False), (None, ("it throttled",), False)],
)
def test_a_run_whose_clock_was_not_seen_is_neither_valid_nor_invalid(answer_of, clock, problems, is_valid):
    answer = answer_of(clock=clock, problems=problems)
    assert figures_of(answer)["is_valid"] is is_valid
    longer = "longer than --duration-s 10 may show it"
    said = [f"whether the GPU's clock held still under load is unknown: {UNSEEN}; {longer}"]
    assert noted(answer).warnings == (said if is_valid is None else [f"invalid: {problem}" for problem in problems])


@pytest.mark.parametrize(("idle_w", "half"), [(1.999, 0.002), (1.95, 0.002), (1.5, 1.1)])
def test_power_at_rest_that_is_that_under_load_makes_a_run_invalid_and_no_energy(answer_of, answers, idle_w, half):
    energy = answers[MeasureDone]["energy"] | {"idle_w": idle_w, "mj_half_width": half}
    recorder = noted(answer_of(energy=energy))
    assert recorder.energy == []
    assert recorder.results["figures"]["is_valid"] is False
    assert recorder.results["figures"]["problems"][0].startswith(f"power at rest, {idle_w:.2f} W, is not clearly below")
    assert [warning.partition(",")[0] for warning in recorder.warnings] == ["invalid: power at rest"]
    assert recorder.notes == ["no energy: power at rest is not clearly below that under load, see the warnings"]


def test_a_99th_percentile_takes_its_calls_and_says_how_long_that_takes(answer_of):
    assert P99_CALLS == 368
    assert figures_of(answer_of())["p99_ms"] == 1.0
    assert noted(answer_of()).notes == []
    few = answer_of(calls=200)
    assert figures_of(few)["p99_ms"] is None
    assert noted(few).notes == ["p99 needs 368 calls, there were 200; measure longer: --duration-s 21"]


@pytest.mark.parametrize(("half", "notes"), [(0.002, 1), (0.5, 0)])
def test_a_width_made_of_tegrastats_steps_alone_is_told(answer_of, half, notes):
    found = noted(answer_of(half=half)).notes
    assert len(found) == notes
    assert all(
        "the means of the samples' eighths hardly differ; most of the ± is the step of 1 mW" in note for note in found
    )
    assert all("did not vary" not in note and "how far the sensor is off is not in it" in note for note in found)


def test_no_energy_says_why(answer_of):
    assert noted(answer_of(energy={"reason": "too few"})).notes == ["no energy: too few"]


@pytest.mark.parametrize(
    ("duration_s", "shares"),
    [(4, []), (5, [1] * 5), (7, [1] * 7), (10, [1] * 10), (12, [1, 1, 1, 1, 2, 1, 1, 1, 1, 2]), (100, [10] * 10)],
)
def test_rounds_share_the_seconds_that_were_asked_for(duration_s, shares):
    assert shares_of(duration_s) == shares
    assert sum(shares) in (0, duration_s)


def turn(answer, samples, **more):
    return answer.model_copy(update={"samples_ms": tuple(samples), **more})


def test_turns_of_one_engine_are_one_answer(answer_of):
    weighed = answer_of(calls=3).model_copy(update={"layers": "of the first", "restored": ("put back",)})
    plain = weighed.model_copy(update={"energy": NotWeighed(reason="not asked for"), "layers": None, "restored": ()})
    turns = [turn(plain, [2.0, 2.0], images_per_s=500.0), turn(plain, [2.0], images_per_s=250.0)]
    found = joined(weighed, turns)
    assert found.samples_ms == (2.0, 2.0, 2.0)
    assert (found.p50_ms, found.energy, found.layers) == (2.0, weighed.energy, "of the first")
    assert found.images_per_s == pytest.approx(3 / (2 / 500 + 1 / 250))
    assert found.restored == ("put back",)
    assert figures_of(found)["is_valid"] is True
    light = joined(None, [turns[0].model_copy(update={"layers": "of the first"}), turns[1]])
    assert (light.samples_ms, light.energy, light.layers) == (found.samples_ms, plain.energy, "of the first")
    assert light.heat.samples == 2 * plain.heat.samples


def test_a_latency_that_drifts_over_the_rounds_is_invalid_although_each_was_steady(answer_of):
    usual = answer_of(calls=1)
    found = joined(usual, [turn(usual, [1.0 + 0.02 * number] * 9) for number in range(10)])
    assert [line.partition(";")[0] for line in found.problems] == ["latency drifted by +13.7 % within the run"]


def test_a_clock_that_differs_between_the_turns_is_invalid_although_each_was_steady(answer_of):
    def at(mhz):
        return answer_of(clock={"lowest": mhz, "median": mhz, "highest": mhz})

    found = joined(at(624), [at(624), at(500), at(624)])
    assert (found.heat.gpu_mhz.lowest, found.heat.gpu_mhz.median, found.heat.gpu_mhz.highest) == (500, 624, 624)
    assert figures_of(found)["is_valid"] is False
    assert "moved between 500 and 624 MHz" in found.problems[0]


def test_a_power_mode_that_changes_between_the_rounds_is_invalid(answer_of):
    usual = answer_of()
    board = usual.board.model_copy(update={"power_mode": PowerMode(name="15W", id=0)})
    found = joined(usual, [usual, usual.model_copy(update={"board": board})])
    assert found.problems == ("the power mode changed between the rounds: MAXN_SUPER and 15W",)


def test_a_clock_seen_in_no_turn_leaves_validity_open_and_says_why(answer_of):
    unseen = answer_of(clock=None)
    assert UNSEEN in noted(joined(unseen, [unseen, unseen])).warnings[0]
    seen = joined(unseen, [unseen, answer_of()])
    assert (figures_of(seen)["is_valid"], seen.heat.clock_unknown) == (True, None)


def test_lines_that_differ_in_their_figures_alone_are_one():
    said = ["took 3.5 ms", "no clock", "took 12 ms", "took -1 ms"]
    assert distinct(said) == ["took 3.5 ms (3 times)", "no clock"]
