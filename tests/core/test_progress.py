"""A bar is drawn on a terminal only, and costs nothing elsewhere."""

from __future__ import annotations

import io

import pytest

from edgeres.core.progress import Countdown, bar, budget_began, budget_runs_from


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("stderr", [Terminal(), io.StringIO()], ids=["terminal", "pipe"])
def test_a_bar_counts_towards_what_is_expected(stderr, monkeypatch):
    monkeypatch.setattr("sys.stderr", stderr)
    monkeypatch.setattr("sys.__stderr__", stderr)
    with bar("choosing") as progress:
        progress.expect(100)
        progress.advance(40)
        progress.expect(80)
        progress.advance(40)
    shown = stderr.getvalue()
    assert ("choosing" in shown and "100%" in shown) == stderr.isatty()
    assert bool(shown) == stderr.isatty()


def test_the_time_left_follows_from_the_pace_so_far(monkeypatch):
    clock = iter([0.0, 30.0])
    monkeypatch.setattr("edgeres.core.progress.time.monotonic", lambda: next(clock))
    countdown = Countdown(7)
    assert countdown.text == ""
    countdown.advance(2)
    countdown.advance()
    assert countdown.text == "; about 40s left"
    countdown.advance(4)
    assert countdown.text == ""


def test_on_a_pipe_the_time_left_is_a_line_every_ten_seconds(monkeypatch, caplog):
    now_s = [0.0]
    monkeypatch.setattr("edgeres.core.progress.time.monotonic", lambda: now_s[0])
    monkeypatch.setattr("sys.stderr", io.StringIO())
    with caplog.at_level("INFO", logger="edgeres"), bar("desk: sending 500 images") as progress:
        progress.expect(100)
        for second in range(1, 26):
            now_s[0] = second
            progress.advance(4)
    assert caplog.messages == [
        "desk: sending 500 images: 40 %; about 15s left",
        "desk: sending 500 images: 80 %; about 5s left",
    ]


def test_the_first_budget_of_a_command_began_with_it_and_others_when_they_are_asked_for(monkeypatch):
    monkeypatch.setattr("edgeres.core.progress.time.perf_counter", lambda: 9.0)
    with budget_runs_from(2.0):
        assert (budget_began(), budget_began()) == (2.0, 9.0)
    with budget_runs_from(2.0):
        pass
    assert budget_began() == 9.0
