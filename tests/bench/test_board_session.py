"""What a session gives its agent to do; nothing is connected."""

from edgeres.bench.board_link import Answer
from edgeres.bench.board_session import Session
from edgeres.bench.boards import Board


class FakeLink:
    """A fake connection: keeps the words, answers with an empty object."""

    board = Board(name="desk", host="nowhere.invalid")

    def run(self, words, say=None):
        self.words = words
        return Answer(0, "{}\n", "")


def test_what_a_job_is_always_given_is_given_to_that_job_only():
    link = FakeLink()
    session = Session(link, "/tmp/edgeres-run-x")
    session.always["measure"] = ("--no-energy",)
    session.agent("measure", "--batch", "2")
    assert link.words[-4:] == ["measure", "--batch", "2", "--no-energy"]
    session.agent("build", "--onnx", "m.onnx")
    assert link.words[-3:] == ["build", "--onnx", "m.onnx"]
