"""Programs die with an agent that is killed."""

import signal
import subprocess
import sys

import pytest

from edgeres.bench.agent import process

ORPHAN = """
import os
from edgeres.bench.agent.process import bond
follow, (reading, writing) = bond(), os.pipe()
if os.fork() == 0:
    if os.fork() == 0:
        os.read(reading, 1)  # until its parent has ended
        follow()
        print("it lives")
    os._exit(0)
os.wait()
os.write(writing, b"x")
"""


@pytest.mark.parametrize("job", ["build", "measure"])
def test_a_killed_agent_takes_its_programs_with_it(bench, job):
    words = {"build": ["--onnx", "model.onnx"], "measure": ["--idle-s", "0.1"]}[job]
    plan = "model.plan" if job == "measure" else "new.plan"
    agent = bench.start(job, "--engine", plan, *words, FAKE_MODE={"build": "hang", "measure": "slowly"}[job])
    bench.wait_until(lambda: any(word in " ".join(bench.strays()) for word in ("--saveEngine", "--loadEngine")))
    agent.send_signal(signal.SIGKILL)
    agent.communicate(timeout=30)
    bench.wait_until(lambda: bench.strays() == [])
    assert bench.run("restore") == (0, {"restored": []})


def test_a_child_whose_parent_has_ended_already_does_not_begin():
    done = subprocess.run([sys.executable, "-c", ORPHAN], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_a_system_without_prctl_starts_children_all_the_same(monkeypatch):
    def none(name):
        raise OSError(name)

    monkeypatch.setattr(process.ctypes, "CDLL", none)
    assert process.bond() is None
    assert process.output_of(["echo", "here"]) == "here"
