"""Which set is tried next, and which three are handed over: closed forms on made-up figures."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeres.cli.main import _run
from edgeres.core.amounts import Target
from edgeres.core.metrics import Interval
from edgeres.core.records.frontier import Frontier, Result, Tried, goals_of, lines_of, on_front
from edgeres.core.runs import Run
from edgeres.core.stage import Recorder, StageResult
from edgeres.optimize.answers import Question, loses_little, next_place, three
from edgeres.optimize.config import OptimizeConfig
from edgeres.optimize.results import _copied
from edgeres.report.claims import claims_of, headline_of


def one(modules: int, ratio: float, lost: float, *, half: float = 0.1, precision: str = "int8") -> Tried:
    return Tried(
        dropped=tuple(f"layer1.{i}" for i in range(modules)),
        precision=precision,
        lost_points=Interval.around(lost, half),
        ratio=Interval.around(ratio, 0.01),
        latency_ms=Interval.around(10 * ratio, 0.1),
    )


WHOLE = one(0, 1.0, 0.0, half=0.0, precision="fp32")
INT8 = one(0, 0.5, 0.05)
TRIED = (WHOLE, INT8, one(2, 0.45, 0.08), one(4, 0.4, 0.5), one(8, 0.3, 1.2), one(12, 0.2, 3.0))


@given(places=st.integers(1, 40), ends=st.integers(0, 40), guess=st.integers(0, 60))
def test_a_question_finds_where_something_ends_in_few_looks(places, ends, guess):
    known: dict[int, bool] = {}
    while (place := Question(known, guess).next_place(places)) is not None:
        assert place not in known
        assert 0 <= place < places
        known[place] = place < ends
    holds = max((place for place, is_so in known.items() if is_so), default=-1)
    assert holds == min(ends, places) - 1
    assert len(known) <= places.bit_length() + 2  # halving, and the guess


@given(st.dictionaries(st.integers(0, 9), st.booleans()), st.integers(0, 12))
def test_a_question_ends_whatever_luck_has_measured(known, guess):
    known = dict(known)
    for _ in range(11):
        if (place := Question(known, guess).next_place(10)) is None:
            return
        assert place not in known
        known[place] = place % 2 == 0
    pytest.fail("asked more often than there are places")


def test_the_first_question_that_is_open_is_asked():
    closed = Question({0: True, 1: False}, 0)
    assert next_place([closed, Question({}, 3)], 5) == 3
    assert next_place([closed], 5) is None
    assert next_place([closed], 0) is None


def test_the_three_for_a_latency():
    answers, missed = three(TRIED, max_loss=2.0, target=Target(0.42, True))
    assert [(one.name, len(one.tried.dropped)) for one in answers] == [("accurate", 2), ("balanced", 4), ("fast", 8)]
    assert missed == []


def test_of_two_that_are_as_fast_the_one_that_loses_less_is_fast():
    trained = one(8, 0.3, 0.9)
    answers, _ = three((*TRIED, trained), max_loss=2.0, target=Target(0.42, True))
    assert answers[-1].tried == trained


def test_accurate_loses_no_more_than_balanced():
    unsure = one(8, 0.2, 0.7, half=2.0)  # the images cannot tell it from nothing lost
    answers, _ = three((*TRIED, unsure, one(4, 0.35, -0.3)), max_loss=2.0, target=Target(0.42, True))
    lost = {one.name: one.tried.lost_points.value for one in answers}
    assert lost["accurate"] <= 0 > lost["balanced"]


FIGURES = st.tuples(st.floats(0.1, 1.2), st.floats(-1.0, 4.0), st.floats(0.0, 4.0))


@given(st.lists(FIGURES, max_size=6), st.sampled_from((0.3, 2.0)), st.sampled_from((None, 0.3, 0.6)))
def test_the_three_are_in_order_and_none_loses_more_than_is_allowed_without_a_word(figures, max_loss, share):
    tried = [WHOLE, *(one(1 + i, ratio, lost, half=half) for i, (ratio, lost, half) in enumerate(figures))]
    answers, missed = three(tried, max_loss=max_loss, target=None if share is None else Target(share, True))
    said = any("so fast is slower than balanced" in line for line in missed)
    ratios = [answer.tried.ratio.value for answer in answers if not said or answer.name != "balanced"]
    assert ratios == sorted(ratios, reverse=True)
    for answer in answers:
        assert answer.tried.lost_points.value <= max_loss or f"more than --max-loss {max_loss:g}" in answer.why


def test_milliseconds_are_held_against_milliseconds():
    answers, _ = three(TRIED, max_loss=2.0, target=Target(4.6, False))
    assert {one.name: len(one.tried.dropped) for one in answers}["balanced"] == 2


def test_a_latency_that_nothing_reaches_says_what_is_nearest():
    answers, missed = three(TRIED, max_loss=2.0, target=Target(0.1, True))
    assert {one.name: len(one.tried.dropped) for one in answers}["balanced"] == 8  # the fastest that may be lost
    (line,) = missed
    assert line == (
        "--latency 0.1x: not reached; the fastest that was tried is less 12, int8 with 2.000 ms, 0.200 of the whole,"
        " and loses 3.00 points"
    )
    _, (line,) = three(TRIED, max_loss=2.0, target=Target(0.1, True), lost_are="% of relative error")
    assert line.endswith(" and loses 3.00 % of relative error")


def test_two_goals_that_no_network_keeps_together_are_said():
    _, (line,) = three(TRIED, max_loss=0.3, target=Target(0.42, True))
    assert line == (
        "--latency 0.42x and --max-loss 0.3 together: not reached; less 4, int8 loses 0.50 points, less 2, int8 takes"
        " 0.450 of the whole, so fast is slower than balanced"
    )
    assert three(TRIED, max_loss=0.5, target=Target(0.42, True))[1] == []


def test_where_nothing_is_worth_it_that_is_said():
    slower = (WHOLE, one(0, 1.2, 0.0), one(2, 0.9, 5.0, precision="fp32"))
    answers, missed = three(slower, max_loss=2.0, target=None)
    assert answers == []
    assert [line.partition(":")[0] for line in missed] == ["accurate", "fast"]


def test_without_a_latency_the_knee_is_balanced():
    knee = one(6, 0.32, 0.2)
    answers, _ = three((*TRIED, knee), max_loss=2.0, target=None)
    assert {one.name: one.tried for one in answers}["balanced"] == knee


def test_a_network_that_was_handed_over_before_advises_what_is_of_its_own_run(runs_folder):
    """A copy of the run of `accurate` would say to time that again."""
    folder = runs_folder / "opt/01-optimize"
    said, told = "run again: edgeres bench --run {}", "04-bench/report.json"
    (folder / "accurate/04-bench").mkdir(parents=True)
    (folder / "accurate" / told).write_text(said.format(Run(folder / "accurate").called))
    _copied(folder / "accurate", folder / "fast")
    assert (folder / "fast" / told).read_text() == said.format(Run(folder / "fast").called)


@pytest.mark.parametrize(
    ("lost", "half", "expected"), [(0.1, 0.01, True), (0.12, 0.2, True), (0.15, 0.06, False), (0.42, 0.41, False)]
)
def test_little_is_what_the_images_cannot_tell_from_a_tenth(lost, half, expected):
    assert loses_little(one(2, 0.4, lost, half=half)) == expected


def test_the_front_is_what_no_other_beats():
    beaten = one(3, 0.5, 0.6)
    assert beaten not in on_front((*TRIED, beaten))
    assert on_front(TRIED) == sorted(TRIED, key=lambda one: one.ratio.value)


def test_the_page_has_no_brackets_where_there_is_no_interval():
    from edgeres.report.stage import tried_cells

    whole, int8 = tried_cells(Frontier.model_construct(tried=(WHOLE, INT8)))
    assert whole[3] == ("0.00",)
    assert int8[3] == ("0.05", "[−0.05, 0.15]")


def frontier(*named: tuple[str, Tried, float], **more: object) -> Frontier:
    """Handed over by these names, each with what it loses on val ± 1."""
    handed = {"folder": "", "file": "", "val_n": 500, "top1": None, "why": ""}
    results = [
        Result(name=name, tried=tried, val_lost_points=Interval.around(lost, 1.0), **handed)
        for name, tried, lost in named
    ]
    told = {"model_sha256": "0", "dataset": "digits", "n": 900, "is_labelled": True, "batch": 1, "threads": 1}
    where = {"runtime": "onnxruntime 1.32.0 cpu", "machine": "a PC", "latency": "0.42x", "max_loss": 2.0}
    return Frontier(**{**told, **where, "tried": TRIED, "results": results, "spent_s": {}, **more})


BOARD = {"runtime": "tensorrt 10.3.0", "machine": "desk: NVIDIA Jetson Orin Nano, JetPack 6.2"}


def test_each_goal_is_said_to_be_kept_or_missed_with_its_figure_and_where_that_comes_from():
    kept = frontier(("balanced", TRIED[3], 0.4), ("fast", TRIED[4], 1.2))
    latency, loss = list(lines_of(kept))[-2:]
    assert latency == (
        "--latency 0.42x kept: balanced (less 4, int8) takes 0.400 of the whole (95 %: 0.390 to 0.410), measured by"
        " onnxruntime 1.32.0 cpu"
    )
    assert loss == (
        "--max-loss 2 kept: fast (less 8, int8) loses 1.20 ± 1.00 points on val (n = 500); the limit lies within the"
        " interval"
    )
    missed = frontier(("balanced", TRIED[3], 3.4), ("fast", TRIED[4], 0.9), latency="3.9ms", **BOARD)
    latency, loss = (goal.text for goal in goals_of(missed))
    assert latency == (
        "--latency 3.9 ms missed: balanced (less 4, int8) takes 4.000 ms (95 %: 3.900 to 4.100), measured by tensorrt"
        " 10.3.0 on desk; the limit lies within the interval"
    )
    assert loss == (
        "--max-loss 2 missed: balanced (less 4, int8) loses 3.40 ± 1.00 points on val (n = 500), judged here; kept by"
        " fast"
    )
    (judged,) = (line for line in lines_of(missed) if line.startswith("judged on"))
    assert "(digits); like val by this machine, not by desk; tensorrt 10.3.0 on desk, batch 1" in judged
    assert [goal.option for goal in goals_of(frontier(("fast", TRIED[4], 1.2), latency=None))] == ["--max-loss 2"]


def test_a_cut_that_gains_no_time_is_called_that():
    tied = one(1, 0.505, 0.0)
    found = frontier(("accurate", tied, 0.0), ("fast", TRIED[4], 1.2), tried=(*TRIED, tied))
    (line,) = (line for line in lines_of(found) if "not measurably faster" in line)
    assert line == (
        "less 1, int8 is not measurably faster than whole, int8, 0.505 (95 %: 0.495 to 0.515) and 0.500 (95 %: 0.490 to"
        " 0.510): its modules are left out for no time"
    )


def test_the_headline_names_the_board_and_says_what_became_of_the_goals():
    found = frontier(("balanced", TRIED[3], 0.4), ("fast", TRIED[4], 2.2), **BOARD)
    assert headline_of(found) == (
        "2.50× faster on desk (95 %: 2.44 to 2.56; less 4, int8), 0.40 ± 1.00 points lost (n = 500, judged here);"
        " --latency 0.42x kept; --max-loss 2 missed."
    )
    assert all("faster on desk" in claim.what for claim in claims_of(found))


def test_figures_of_a_part_of_val_say_so_wherever_they_are_told():
    from edgeres.report.stage import result_cells

    found = frontier(("balanced", TRIED[3], 0.4))
    assert " of val" not in " ".join((headline_of(found), *lines_of(found)))
    part = found.model_copy(update={"results": tuple(r.model_copy(update={"val_all": 2500}) for r in found.results)})
    said = "n = 500 of 2,500 of val: the budget left no time for more"
    *_, balanced, _, loss = lines_of(part)
    for text in (headline_of(part), balanced, loss, *(claim.detail for claim in claims_of(part))):
        assert f"({said})" in text
    assert result_cells(part.results[0])[-1][-1] == said


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        ("steady", ""),
        ("", ""),
        ("doubtful: a: outliers", " in a doubtful measurement"),
        ("invalid: machine busy", " in an invalid measurement"),
    ],
)
def test_what_rests_on_a_doubtful_measurement_says_so_wherever_it_is_told(verdict, said):
    found = frontier(("balanced", TRIED[3], 0.4), verdict=verdict)
    *_, balanced, latency, _ = lines_of(found)
    assert f"2.50× faster{said} (95 %" in headline_of(found)
    assert f"0.400 of the latency (95 %: 0.390 to 0.410){said}, 0.40" in balanced
    assert latency.endswith(f"measured by onnxruntime 1.32.0 cpu{said}")


@pytest.mark.parametrize("name", ["balanced", "fast"])
@pytest.mark.parametrize("verdict", ["steady", "doubtful: whether the GPU's clock held still under load is unknown"])
def test_a_doubtful_measurement_on_a_board_names_the_command_that_measures_anew(name, verdict):
    from edgeres.report.summary import RunSummary

    found = frontier((name, TRIED[3], 0.4), verdict=verdict, **BOARD)
    found = found.model_copy(
        update={"results": (found.results[0].model_copy(update={"folder": f"runs/r/01-o/{name}"}),)}
    )
    summary = RunSummary(run="mine", headline="", rows=(), frontier=found)
    for *_, last in (lines_of(found), summary.goals):
        assert last.endswith(f"edgeres bench --run {Run(Path(found.results[0].folder)).typed} --on desk") == (
            verdict != "steady"
        )
    here = found.model_copy(update={"runtime": "onnxruntime 1.32.0 cpu"})
    assert "edgeres bench" not in [*lines_of(here)][-1]


def test_an_interval_of_a_headline_has_two_ends():
    narrow = TRIED[3].model_copy(update={"ratio": Interval(value=0.5291, low=0.5285, high=0.5297)})
    assert "1.89× faster (95 %: 1.888 to 1.892;" in headline_of(frontier(("balanced", narrow, 0.4)))


def test_where_nothing_is_handed_over_the_headline_says_so_and_a_plan_has_no_goals():
    found = frontier(misses=("fast: no network that was tried",), latency="0.1x")
    assert headline_of(found) == "no network that was tried is worth handing over; --latency 0.1x missed."
    (goal,) = goals_of(found)
    assert goal.figure.startswith(
        "the fastest (less 12, int8) takes 0.200 of the whole (95 %: 0.190 to 0.210), measured"
    )
    assert list(goals_of(frontier())) == []


@pytest.mark.parametrize("named", [(), (("fast", TRIED[4], 1.2),)])
def test_the_page_says_what_became_of_the_goals(named):
    from edgeres.report.stage import page_from
    from edgeres.report.summary import RunSummary
    from edgeres.report.table import markdown_from

    found = frontier(*named, misses=("fast: none",))
    summary = RunSummary(run="mine", headline=headline_of(found), rows=(), frontier=found)
    texts = [goal.text for goal in goals_of(found)]
    assert len(texts) == 1 + len(named)
    for shown in (page_from(summary), markdown_from(summary)):
        assert all(text in shown for text in texts)
    assert ("The networks handed over" in page_from(summary)) == bool(named)


@pytest.mark.parametrize(
    ("found", "code", "said"),
    [
        (frontier(("balanced", TRIED[3], 0.4), ("fast", TRIED[4], 1.2)), 0, ""),
        (frontier(("balanced", TRIED[3], 3.4)), 1, "--max-loss 2 missed"),
        (frontier(("fast", TRIED[4], 2.5), latency="0.1x"), 1, "--latency 0.1x missed; --max-loss 2 missed"),
        (frontier(misses=("fast: none",), latency=None), 1, "no network that was tried is worth handing over"),
        (frontier(latency="0.1x"), 0, ""),  # a plan alone
    ],
)
@pytest.mark.parametrize("json", [[], ["--json"]])
def test_a_missed_goal_is_the_exit_code_after_all_was_printed(monkeypatch, capsys, found, code, said, json):
    results = {"frontier": found.model_dump(mode="json")}
    report = Recorder("optimize", OptimizeConfig(data="digits"), None, results=results).finish(None)
    monkeypatch.setattr("edgeres.optimize.calls.optimize_call", lambda *_: StageResult(None, report))
    monkeypatch.setattr("sys.argv", ["edgeres", "optimize", "m.pth", *json])
    assert _run() == code
    out, err = capsys.readouterr()
    assert err == (f"edgeres: optimize: {said}\n" if said else "")
    assert (out != "") == bool(json)
