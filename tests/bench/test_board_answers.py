"""Whatever a board answers is a record that every reader can use, or one line; the answers here are made up."""

import json
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeres.bench.board_answers import BoardFound, BuildDone, EvalDone, JobDone, MeasureDone
from edgeres.bench.board_facts import checks_of, facts_of, machine_of
from edgeres.bench.board_figures import note
from edgeres.bench.board_link import Answer
from edgeres.bench.board_session import Session
from edgeres.bench.boards import Board
from edgeres.bench.config import BoardConfig
from edgeres.core.errors import DeviceError
from edgeres.core.stage import Recorder

KINDS = [BoardFound, JobDone, BuildDone, MeasureDone, EvalDone]
MODEL = SimpleNamespace(sha256="0" * 64)
ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda parts: st.lists(parts, max_size=4) | st.dictionaries(st.text(), parts, max_size=4),
    max_leaves=8,
)
NO_ANSWERS = {
    "nothing": "",
    "garbage": "\x00\ufffd\x1b[2J",
    "two halves": '{"model": "x"',
    "deep list": "[" * 100_000,
    "deep object": '{"a":' * 100_000,
    "long number": "5" * 100_000,
    "half a letter": '"\\ud800"',
    "a later version": '{"schema_version": 99}',
}


class FakeLink:
    """A fake connection to a board that answers `text` to everything."""

    board = Board(name="desk", host="nowhere.invalid")

    def __init__(self, text, code=0):
        self.text, self.code = text, code

    def run(self, words, say, limits, name):
        return Answer(self.code, self.text + "\n", "")


def answered(kind, text, code=0):
    """The record, or the line that says why there is none."""
    try:
        return Session(FakeLink(text, code), "/tmp/edgeres-run-x").agent(kind)
    except DeviceError as err:
        said = str(err)
        assert said.startswith("desk: ")
        assert len(said.splitlines()) == 1
        assert len(said) < 2000
        return said


def use(record):
    """All that is made of an answer, as text for people and as JSON."""
    if isinstance(record, BoardFound):
        texts = [f"{check.detail}{check.remedy}" for check in checks_of(record)]
        assert not any("\n" in text for text in texts)
        json.loads(record.model_dump_json())
        return
    facts = facts_of(SimpleNamespace(board=Board(name="desk", host="x"), agent=lambda kind: found()), record)
    assert "\n" not in machine_of(facts)
    if isinstance(record, MeasureDone):
        recorder = Recorder("board", BoardConfig(), MODEL, results={"figures": {}})
        note(recorder, record, BoardConfig(), machine="m", session="s", rounds=())
        json.dumps([facts, recorder.results, recorder.notes, recorder.warnings], allow_nan=False)


def found():
    return BoardFound.model_validate(GOOD[BoardFound])


GOOD = {}


@pytest.fixture(autouse=True)
def good(answers):
    GOOD.update(answers)


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_agent_answers_is_understood(kind):
    record = answered(kind, json.dumps(GOOD[kind]))
    assert isinstance(record, kind)
    use(record)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", NO_ANSWERS.values(), ids=NO_ANSWERS)
def test_what_is_no_answer_is_one_line_that_names_the_job(kind, text):
    assert f"the answer to the job {kind.job!r} is not understood: " in answered(kind, text)


@pytest.mark.parametrize("kind", KINDS)
@given(value=ODD)
def test_any_json_is_one_line(kind, value):
    assert "not understood" in answered(kind, json.dumps(value))


def places(value, so_far=()):
    """The way to every part of an answer."""
    yield so_far
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from places(part, (*so_far, key))


def changed(value, place, new):
    """A copy with another part at that place; None removes it."""
    if not place:
        return new[0] if new else None
    key, copy = place[0], value.copy()
    if len(place) > 1:
        copy[key] = changed(value[key], place[1:], new)
    elif new:
        copy[key] = new[0]
    else:
        del copy[key]
    return copy


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_an_answer_of_which_one_part_is_odd_is_used_or_one_line(kind, data):
    place = data.draw(st.sampled_from([place for place in places(GOOD[kind]) if place]))
    new = data.draw(st.just(()) | st.tuples(ODD | st.sampled_from([float("inf"), -1, 10**400, "\x1b[2J\nx"])))
    record = answered(kind, json.dumps(changed(GOOD[kind], place, new)))
    if not isinstance(record, str):
        use(record)


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        (BoardFound, "power_mode"),
        (BuildDone, "engine_sha256"),
        (MeasureDone, "samples_ms"),
        (MeasureDone, "tensorrt"),
        (EvalDone, "n"),
    ],
)
def test_what_is_missing_is_named(kind, key):
    left = {name: value for name, value in GOOD[kind].items() if name != key}
    assert f"is not understood: {key} is needed; is python3 there" in answered(kind, json.dumps(left))


@given(error=ODD)
def test_an_error_is_one_line_whatever_it_is(error):
    said = answered(JobDone, json.dumps({"error": error}), code=4)
    assert isinstance(said, str)


def test_names_are_one_line_and_as_long_as_a_name():
    record = answered(BoardFound, json.dumps({**GOOD[BoardFound], "model": "Orin\nvalid: yes\x85\u2028x"}))
    assert record.model == "Orin valid: yes x"
    assert "model: " in answered(BoardFound, json.dumps({**GOOD[BoardFound], "model": "a" * 3_000_000}))
