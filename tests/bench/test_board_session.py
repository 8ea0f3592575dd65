"""What a session gives its agent to do; nothing is connected."""

import pytest

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
