"""What a session gives its agent to do; nothing is connected."""

import json

import pytest

from edgeres.bench.agent import lock
from edgeres.bench.board_answers import BuildDone, MeasureDone
from edgeres.bench.board_link import Answer
from edgeres.bench.board_session import Session
from edgeres.bench.boards import Board
from edgeres.core.errors import DeviceError


class FakeLink:
    """A fake connection: keeps the words, answers with what is no answer."""

    board = Board(name="desk", host="nowhere.invalid")

    def run(self, words, say, limits, name):
        self.words = words
        return Answer(0, "{}\n", "")


def test_a_job_is_given_its_options():
    link = FakeLink()
    session = Session(link, "/tmp/edgeres-run-x")
    with pytest.raises(DeviceError, match="the answer to the job 'measure' is not understood: restored is needed"):
        session.agent(MeasureDone, "--batch", "2", "--no-energy")
    assert link.words[-4:] == ["measure", "--batch", "2", "--no-energy"]
    with pytest.raises(DeviceError, match="the answer to the job 'build' is not understood: "):
        session.agent(BuildDone, "--onnx", "m.onnx")
    assert link.words[-3:] == ["build", "--onnx", "m.onnx"]


@pytest.mark.parametrize(("patience_s", "tries"), [(0.0, 1), (300.0, 3), (7.0, 3)])
def test_a_patient_session_waits_for_another_run_and_says_so_once(monkeypatch, caplog, patience_s, tries):
    now_s, asked, busy = [0.0], [], json.dumps({"error": lock.TAKEN % 7})
    monkeypatch.setattr("time.monotonic", lambda: now_s[0])
    monkeypatch.setattr("time.sleep", lambda seconds: now_s.append(now_s.pop() + seconds))

    class Link(FakeLink):
        def run(self, words, say, limits, name):
            asked.append(words)
            return (
                Answer(0, '{"restored": ["clocks"]}', "") if len(asked) == 3 and patience_s > 7 else Answer(4, busy, "")
            )

    session = Session(Link(), "/tmp/edgeres-run-x", patience_s)
    with caplog.at_level("INFO", "edgeres"):
        if patience_s > 7:
            assert session.claim() == ["clocks"]
        else:
            with pytest.raises(
                DeviceError, match=r"^desk: another edgeres run \(pid 7\) is using this board; try again"
            ):
                session.claim()
    assert len(asked) == tries
    said = [line for line in caplog.messages if "waiting for up to" in line]
    assert len(said) == (patience_s > 0)
