"""A further Ctrl-C while Python ends is exit code 130 too, and no death by signal."""

import os
import subprocess
import sys

import pytest

from edgeres.cli import main

LATE = """
class Late:
    def __del__(self, kill=os.kill, own=os.getpid(), number=signal.SIGINT):
        kill(own, number)
late = Late()
"""
AT_EXIT = "atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT) or [None for _ in range(9)])"


IN_TEXT = """
import sys
from edgeres.cli import main
def run(began_s):
    try:
        exec("raise KeyboardInterrupt")
    except KeyboardInterrupt:
        return 130
main._run = run
main.main()
"""


def test_an_interrupt_of_text_that_is_executed_is_no_death_by_signal(tmp_path):
    (tmp_path / "started.py").write_text(IN_TEXT)
    done = subprocess.run([sys.executable, "-m", "started"], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (130, "")


@pytest.mark.parametrize("again", [LATE, AT_EXIT], ids=["modules", "atexit"])
def test_a_further_interrupt_at_the_end_changes_no_exit_code(again):
    code = f"import atexit, os, signal\nfrom edgeres.cli import main\n{again}\nmain._run = lambda _: 130\nmain.main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "")


IMPORTING = """
import importlib.abc, os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "click":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
from edgeres.__main__ import main
main()
"""


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_an_interrupt_while_packages_are_imported_is_one_line(name, code):
    text = IMPORTING.replace("os.kill(os.getpid(), signal.SIGINT)", f"os.kill(os.getpid(), signal.{name})")
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, "edgeres: interrupted; nothing was begun\n")


ENDED = """
import os, signal, sys, time
from pathlib import Path
from edgeres.cli import main
from edgeres.train.loop import interruptible
def work(**options):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
def trained(**options):
    with interruptible() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(60)
        raise KeyboardInterrupt(stop.number)
sys.argv = ["edgeres", "run"]
main.cli.main = work if len(os.environ["WORK"]) == 4 else trained
main.main()
"""


@pytest.mark.parametrize(("work", "processes", "code"), [("work", "1", 143), ("trained", "1", 143), ("work", "2", -15)])
def test_sigterm_ends_a_command_as_ctrl_c_does_but_for_its_code(work, processes, code):
    env = os.environ | {"WORK": work, "WORLD_SIZE": processes, "RANK": "0"}
    text = ENDED.replace("main.main()", "main.lead = main.let_go = int\nmain.main()")  # no torchrun is there
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False, env=env)
    said = "edgeres: interrupted; the same command goes on from what it kept\n" if code > 0 else ""
    assert (done.returncode, done.stderr) == (code, said)


def test_an_import_that_an_interrupt_broke_is_an_interrupt(monkeypatch, capsys):
    def broken(**options):
        raise ImportError("initialization failed") from KeyboardInterrupt()

    monkeypatch.setattr(sys, "argv", ["edgeres", "ls", "runs"])
    monkeypatch.setattr(main.cli, "main", broken)
    assert main._run() == 130
    assert capsys.readouterr().err == "edgeres: interrupted; the same command starts from the beginning\n"


@pytest.mark.parametrize(
    ("arguments", "goes_on"),
    [
        (["eval", "model.onnx"], False),
        (["import", "train.pt"], False),
        (["-q", "train", "--arch", "resnet8"], True),
        (["-v", "prune", "--drop", "2"], True),
        (["study", "depth"], True),
        (["study", "paths"], False),
        (["bench", "a.onnx", "--on", "nano"], False),
        (["bench", "--per-module", "a.onnx"], False),
        (["bench", "--per-module", "a.onnx", "--on=nano"], True),
        ([], False),
    ],
)
def test_an_interrupted_command_says_what_it_does_when_given_again(monkeypatch, capsys, arguments, goes_on):
    def interrupt(**options):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["edgeres", *arguments])
    monkeypatch.setattr(main.cli, "main", interrupt)
    assert main._run() == 130
    said = "goes on from what it kept" if goes_on else "starts from the beginning"
    assert capsys.readouterr().err == f"edgeres: interrupted; the same command {said}\n"
