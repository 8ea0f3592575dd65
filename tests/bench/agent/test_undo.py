"""What a run that was killed has set on the board is put back by the next one, and nothing else is."""

import json
import signal
import subprocess

import pytest

from edgeres.bench.agent import undo
from edgeres.bench.agent.process import Refused
from edgeres.bench.board_answers import BoardFound
from edgeres.bench.board_facts import checks_of

FREE, LOCKED = ("306750000", "1020750000"), ("1020750000", "1020750000")
SET = ("--lock-clocks", "--power-mode", "15W")
BUILD = ("build", "--onnx", "model.onnx", "--engine", "new.plan")
RESTORED = [
    "a run that was killed had left the clocks locked: put back",
    "a run that was killed had left power mode 15W: put back",
]


def power_mode(bench):
    return bench.run("detect")[1]["power_mode"]["name"]


def kill_a_run(bench, *options):
    """Leaves a measurement as the kernel does when memory runs out."""
    process = bench.start("measure", "--engine", "model.plan", "--idle-s", "0.1", *options, FAKE_MODE="slowly")
    bench.wait_until(lambda: (bench.root / "state" / "load").exists())
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    bench.wait_until(lambda: bench.strays() == [])
    (bench.root / "state" / "load").unlink()


def on_the_board(bench, *command):
    subprocess.run([bench.root / "bin" / command[0], *command[1:]], env=bench.environment, check=True)


@pytest.mark.parametrize("job", [("restore",), BUILD], ids=lambda job: job[0])
def test_what_a_killed_run_had_set_is_put_back_by_the_next_which_says_so(bench, job):
    kill_a_run(bench, *SET)
    assert (bench.clock(), power_mode(bench)) == (LOCKED, "15W")
    code, answer = bench.run(*job)
    assert (code, answer["restored"]) == (0, RESTORED)
    assert (bench.clock(), power_mode(bench)) == (FREE, "MAXN_SUPER")
    assert bench.left() == []
    assert bench.run("restore") == (0, {"restored": []})


def test_after_a_power_cut_the_board_says_what_is_left_until_the_next_run_puts_it_back(bench):
    kill_a_run(bench, *SET)
    for file in bench.temporary.iterdir():
        file.unlink()  # what lies in /tmp is gone with the power
    locked = json.loads((bench.kept / undo.LOCKED).read_text())
    (bench.kept / undo.LOCKED).write_text(json.dumps({**locked, "boot": "another"}))
    found = BoardFound.model_validate(bench.run("detect")[1])
    said = "a run that was killed has left power mode 15W", "the next run puts it back, or: sudo nvpmodel -m 2"
    assert found.left == ("; ".join(said),)
    assert [(one.detail, one.remedy) for one in checks_of(found) if one.name == "left over"] == [said]
    assert bench.run("restore")[1]["restored"] == RESTORED[1:]
    assert bench.run("detect")[1]["left"] == []


def test_what_a_run_at_work_has_set_is_not_called_left(bench):
    process = bench.start("measure", "--engine", "model.plan", "--idle-s", "0.1", *SET, FAKE_MODE="slowly")
    bench.wait_until(lambda: (bench.root / "state" / "load").exists())
    found = bench.run("detect")[1]
    process.terminate()
    process.communicate(timeout=30)
    assert (found["power_mode"]["name"], found["left"]) == ("15W", [])


def test_what_was_chosen_since_stays(bench):
    kill_a_run(bench, *SET)
    on_the_board(bench, "nvpmodel", "-m", "1")
    assert bench.run("restore") == (0, {"restored": []})
    assert (bench.clock(), power_mode(bench)) == (LOCKED, "25W")  # who sets a mode sets its clocks
    assert bench.left() == []


@pytest.mark.parametrize("name", [undo.MODE, undo.LOCKED])
def test_a_run_that_was_killed_before_it_changed_anything_left_nothing_to_do(bench, name):
    folder = bench.kept
    folder.mkdir(mode=0o700)
    (folder / name).write_text('{"before": 2, "dur')
    (folder / undo.CLOCKS).write_text("half of what jetson_clocks")
    assert bench.run("restore") == (0, {"restored": []})
    assert bench.left() == []


def test_clocks_of_before_a_restart_are_not_put_back(bench):
    kill_a_run(bench, "--lock-clocks")
    path = bench.kept / undo.LOCKED
    path.write_text(json.dumps({**json.loads(path.read_text()), "boot": "another"}))
    assert bench.run("restore") == (0, {"restored": []})
    assert (bench.clock(), bench.left()) == (LOCKED, [])


def test_clocks_that_were_freed_by_hand_are_not_put_back_again(bench):
    kill_a_run(bench, "--lock-clocks")
    stored = bench.kept / undo.CLOCKS
    on_the_board(bench, "jetson_clocks", "--restore", str(stored))
    assert bench.run("restore") == (0, {"restored": []})
    assert (bench.clock(), bench.left()) == (FREE, [])


def test_what_cannot_be_put_back_is_said_and_kept_for_later(bench):
    kill_a_run(bench, *SET)
    forbidden = {"FAKE_ROOT": "no", "FAKE_SUDO": "asks"}
    code, answer = bench.run("restore", **forbidden)
    stored = bench.kept / undo.CLOCKS
    assert code == 0
    assert answer["restored"][0].endswith(f"; run: sudo jetson_clocks --restore {stored}")
    assert answer["restored"][1].endswith("; run: sudo nvpmodel -m 2")
    said = bench.refusal("measure", "--engine", "model.plan", "--lock-clocks", **forbidden)
    assert said == f"the clocks are still locked by a run that was killed; run: sudo jetson_clocks --restore {stored}"
    said = bench.refusal("measure", "--engine", "model.plan", "--power-mode", "25W", **forbidden)
    assert said == "the power mode is still 15W, set by a run that was killed; set it yourself"
    assert bench.run("restore") == (0, {"restored": RESTORED})


def open_to_all(path):
    path.mkdir()
    path.chmod(0o777)


def link(path):
    path.with_name("elsewhere").mkdir(mode=0o700)
    path.symlink_to("elsewhere")


@pytest.mark.parametrize("make", [open_to_all, link])
def test_a_folder_another_user_could_write_into_is_neither_used_nor_heeded(tmp_path, monkeypatch, make):
    path = tmp_path / "kept"
    make(path)
    monkeypatch.setattr(undo, "place", lambda: path)
    (path / undo.MODE).write_text('{"before": 2, "during": 0}')
    (path / undo.LOCKED).write_text(json.dumps({"boot": undo._boot(), "mode": None}))
    assert (undo.left_mode(), undo.left_clocks()) == (None, None)
    undo.forget(undo.MODE)
    assert (path / undo.MODE).exists()
    with pytest.raises(Refused, match="is no folder of this user alone: who made it"):
        undo.folder()
