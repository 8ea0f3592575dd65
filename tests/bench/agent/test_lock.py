import fcntl
import os
import signal

import pytest

from edgeres.bench.agent import lock
from edgeres.bench.agent.process import Refused

JOB = ("measure", "--engine", "model.plan", "--idle-s", "0.1")


@pytest.fixture
def holder(bench):
    """A run that holds the board for ten minutes."""
    process = bench.start(*JOB, FAKE_MODE="slowly")
    bench.wait_until(lambda: (bench.root / "state" / "load").exists())
    yield process
    process.terminate()
    process.communicate(timeout=30)


@pytest.mark.parametrize(
    "job",
    [
        JOB,
        ("build", "--onnx", "model.onnx", "--engine", "new.plan"),
        ("eval", "--engine", "model.plan", "--images", "images", "--logits", "l"),
    ],
    ids=lambda job: job[0],
)
def test_two_runs_at_once_on_one_board_are_refused(bench, holder, job):
    said = bench.refusal(*job)
    assert said == f"another edgeres run (pid {holder.pid}) is using this board; try again when it has ended"


def test_a_board_in_use_can_still_be_described(bench, holder):
    assert bench.run("detect")[0] == 0


def test_a_run_that_was_killed_does_not_lock_the_board_for_ever(bench, tmp_path):
    first = bench.start("--leash", *JOB, FAKE_MODE="hang")
    bench.wait_until(lambda: lock.NAME in bench.left())
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=30)
    bench.wait_until(lambda: bench.strays() == [])
    assert lock.NAME in bench.left()
    assert bench.run("build", "--onnx", "model.onnx", "--engine", "new.plan")[0] == 0


def test_a_lock_file_that_is_a_link_is_not_followed(tmp_path, monkeypatch):
    monkeypatch.setattr(lock.tempfile, "gettempdir", lambda: str(tmp_path))
    (tmp_path / "precious").write_text("keep")
    (tmp_path / lock.NAME).symlink_to("precious")
    with pytest.raises(OSError, match="symbolic links"), lock.held():
        pass
    assert (tmp_path / "precious").read_text() == "keep"


def test_a_lock_file_that_can_only_be_read_locks_too(tmp_path, monkeypatch):
    monkeypatch.setattr(lock.tempfile, "gettempdir", lambda: str(tmp_path))
    (tmp_path / lock.NAME).write_text("77")
    opened = os.open

    def only_read(path, flags, *mode):
        if flags & os.O_RDWR:
            raise PermissionError(13, "Permission denied", path)
        return opened(path, flags, *mode)

    monkeypatch.setattr(lock.os, "open", only_read)
    with (tmp_path / lock.NAME).open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(Refused, match="pid 77"), lock.held():
            pass
    with lock.held():
        pass
