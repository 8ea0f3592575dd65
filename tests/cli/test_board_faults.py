"""Every fault of a board through `edgeres bench --on`, on a pretend board over real ssh.

Each ends in one line and the right exit code, or in a mark on the figures; nothing runs or lies on the board
afterwards, its clocks are as before, and the same command, typed again, succeeds.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from edgeres.bench import board_session, board_upload
from edgeres.bench.boards import agent_bytes

SHORT = ("--warmup-s", "0", "--duration-s", "1", "--idle-s", "0.5")
HALF_OF_THE_MODEL = len(agent_bytes()) + 200_000  # bytes, what comes before it among them
IN_A_HANDSHAKE = 1_000
DEVICE = 4
Happening = Callable[[Any, Any], AbstractContextManager[None]]


@dataclass(frozen=True)
class Fault:
    """What happens during the first try, what is said then (a pattern), the exit code, and more options."""

    happens: Happening
    said: str
    code: int = DEVICE
    options: tuple[str, ...] = ()


def in_mode(name: str) -> Happening:
    """A fake of the board does this wrong."""

    @contextmanager
    def happens(host: Any, hosts: Any) -> Iterator[None]:
        host.mode(name)
        yield
        host.mode("")

    return happens


def without(program: str) -> Happening:
    """The board lacks it."""

    @contextmanager
    def happens(host: Any, hosts: Any) -> Iterator[None]:
        path = host.root / "jetson" / "bin" / program
        path.rename(path.with_name("." + program))
        yield
        path.with_name("." + program).rename(path)

    return happens


def once(mode: str, is_so: Callable[[Any], bool], act: Callable[[Any], None]) -> Happening:
    """As soon as the job has come so far."""

    @contextmanager
    def happens(host: Any, hosts: Any) -> Iterator[None]:
        def watch() -> None:
            hosts.wait_until(lambda: is_so(host), seconds=60)
            act(host)

        with in_mode(mode)(host, hosts):
            watcher = threading.Thread(target=watch)
            watcher.start()
            yield
            watcher.join()

    return happens


def builds(host: Any) -> bool:
    return any("--onnx=" in line for line in host.programs())


def measures(host: Any) -> bool:
    return (host.root / "jetson" / "state" / "load").exists()


def cut(host: Any) -> None:
    host.wire.cut()


def kill_agent(host: Any) -> None:
    found = [line.split() for line in host.programs() if "agent.pyz --leash" in line]
    (agent,) = (words[0] for words in found if words[2] != "-c")  # a shell may stand before it
    os.kill(int(agent), signal.SIGKILL)


@contextmanager
def cut_while_sending(host: Any, hosts: Any) -> Iterator[None]:
    host.wire.cuts = [HALF_OF_THE_MODEL, *[IN_A_HANDSHAKE] * board_upload.RECONNECTS]
    yield
    assert host.wire.cuts == []


@contextmanager
def another_key(host: Any, hosts: Any) -> Iterator[None]:
    host.know("other")
    yield
    host.know("host")


@contextmanager
def another_run(host: Any, hosts: Any) -> Iterator[None]:
    """Somebody measures on the board itself."""
    host.mode("slowly")
    command = [sys.executable, "-m", "edgeres.bench.agent", "measure", "--engine", "x", "--idle-s", "0"]
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env=host.environment, cwd=host.root, **streams) as process:
        hosts.wait_until(lambda: measures(host))
        yield
        process.terminate()
    host.mode("")


def disk_of(size: str) -> Happening:
    @contextmanager
    def happens(host: Any, hosts: Any) -> Iterator[None]:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(host.board_tmp)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("no file system may be mounted here")
        try:
            yield
            hosts.wait_until(lambda: list(host.board_tmp.iterdir()) == [] and host.programs() == [])
        finally:
            subprocess.run(["umount", str(host.board_tmp)], check=True)

    return happens


MORE = {
    "another run on the board": Fault(
        another_run, r"^edgeres: desk: another edgeres run \(pid \d+\) is using this board"
    ),
    "connection cut while sending": Fault(
        cut_while_sending, r"^edgeres: desk: the connection was lost 4 times while sending model\.onnx"
    ),
    "connection cut during the measurement": Fault(
        once("slowly", measures, cut),
        r"^edgeres: desk: the connection was lost during the job 'measure'; the board ends",
    ),
    "disk without room for the agent": Fault(disk_of("16k"), r"^edgeres: desk: .*agent\.pyz.*; is its disk full\?"),
    "disk full at the end of the build": Fault(
        in_mode("nospace"), r"^edgeres: desk: the build failed: .*Saving engine to file failed"
    ),
    "no engine written": Fault(
        in_mode("full"), r"^edgeres: desk: trtexec says PASSED but wrote no engine; disk full\?"
    ),
    "no trtexec": Fault(without("trtexec"), r"^edgeres: desk: no trtexec on this board; install it: sudo apt install"),
    "trtexec refuses the file": Fault(in_mode("bad"), r"^edgeres: desk: the build failed: .*Failed to parse onnx file"),
    "trtexec crashes": Fault(in_mode("crash"), r"^edgeres: desk: the build failed: trtexec 10\.3\.0 .* signal 11"),
    "trtexec out of memory": Fault(
        in_mode("oom"), r"^edgeres: desk: the build failed: .* signal 9, as the kernel does"
    ),
    "measurement hangs": Fault(
        in_mode("slowly"),
        r"^edgeres: desk: the measurement hung: trtexec was ended after 6 s",
        options=("--timeout-s", "6"),
    ),
    "trtexec does not say when it times": Fault(in_mode("silent"), r"no energy: trtexec did not say", code=0),
    "no tegrastats": Fault(without("tegrastats"), r"warning: .*no tegrastats: neither power nor clocks nor", code=0),
    "tegrastats ends": Fault(in_mode("quiet"), r"no energy: tegrastats ended before the run did", code=0),
    "tegrastats in an unknown format": Fault(in_mode("garbage"), r"no energy: .* are in no known format", code=0),
    "tegrastats changes its format": Fault(in_mode("newformat"), r"no energy: .* are in no known format", code=0),
    "the GPU throttles": Fault(in_mode("throttle"), r"warning: .*invalid: the GPU's clock moved", code=0),
    "power mode changed": Fault(in_mode("newmode"), r"warning: .*invalid: the power mode changed", code=0),
    "over-current": Fault(in_mode("overcurrent"), r"warning: .*invalid: the board throttled: oc1", code=0),
    "latency drifts": Fault(in_mode("drift"), r"warning: .*invalid: latency drifted by", code=0),
    "another host key": Fault(another_key, r"^edgeres: desk: orin shows another host key than known_hosts has"),
    "build hangs": Fault(
        in_mode("hang"),
        r"^edgeres: desk: the build hung: trtexec was ended after 2 s",
        options=("--timeout-s", "2"),
    ),
    "connection cut during the build": Fault(
        once("hang", builds, cut), r"^edgeres: desk: the connection was lost during the job 'build'; the board ends it"
    ),
    "disk too small for the engine": Fault(
        disk_of("1m"), r"^edgeres: desk: building model\.onnx needs .* MB in .*, \d\.\d MB are free; make room there"
    ),
}
FAST = {
    "agent killed": Fault(
        once("slowly", measures, kill_agent),
        r"^edgeres: desk: the agent was killed during the job 'measure' \(was the board out of memory\?\)"
        r"; a run that was killed had left the clocks locked: put back",
        options=("--lock-clocks",),
    ),
}
FAULTS = FAST | MORE


@pytest.fixture(scope="module")
def board(hosts, ssh_server, tmp_path_factory):
    """The board `desk` for all faults, behind a wire; it keeps what a lost laptop left for a second only."""
    with (
        pytest.MonkeyPatch.context() as patch,
        hosts.serving(ssh_server, tmp_path_factory.mktemp("faults"), patch) as one,
    ):
        patch.setattr(board_upload, "WAIT_S", 0.02)
        patch.setattr(board_session, "GRACE_S", 1.0)
        one.start(cuts=[])
        yield one


@pytest.fixture(scope="module")
def model(hosts, tmp_path_factory):
    """A float file of 0.3 MB."""
    return hosts.onnx_file(tmp_path_factory.mktemp("model")).path


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FAST, *(pytest.param(name, marks=pytest.mark.exhaustive) for name in MORE)])
def test_a_fault_is_one_line_leaves_nothing_and_the_second_try_succeeds(edgeres, board, hosts, model, name):
    fault, clock, command = FAULTS[name], board.clock(), ("bench", model, "--on", "desk", *SHORT)
    with fault.happens(board, hosts):
        code, out, err = edgeres(*command, *fault.options)
    assert (code, fault.code and out) == (fault.code, fault.code and "")
    assert len(err.strip().splitlines()) == 1 or code == 0
    assert re.search(fault.said, out + err, re.MULTILINE), out + err
    hosts.wait_until(lambda: board.programs() == [] and left_on(board) == [])
    assert board.clock() == clock
    code, out, err = edgeres(*command, "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert report["results"]["figures"]["is_valid"]
    usual = ("p99 needs ", "energy: ", "not kept: no stage of a run")
    undone = [note for note in report["notes"] if not note.startswith(usual)]
    assert (undone, len(report["energy"])) == ([], 1)
    assert left_on(board) == board.programs() == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("evalcrash", "the evaluation crashed inside TensorRT or CUDA with signal 11"),
        pytest.param("evalhang", "the evaluation hung: it was ended after 6 s", marks=pytest.mark.exhaustive),
    ],
)
def test_what_was_measured_is_told_and_kept_although_it_cannot_be_judged(
    edgeres, board, hosts, model, tmp_path, mode, said
):
    command = ("bench", model, "--on", "desk", *SHORT, "--timeout-s", "6", "--data", "digits", "--images", "10")
    with in_mode(mode)(board, hosts):
        code, out, err = edgeres(*command, "--run", tmp_path, "--json")
    assert code == 4
    assert err.splitlines()[-1].startswith(f"edgeres: desk: {said}")
    report = json.loads(out)
    assert [warning for warning in report["warnings"] if warning.startswith(f"no accuracy: desk: {said}")]
    assert (len(report["latency"]), len(report["energy"]), report["accuracy"]) == (1, 1, [])
    kept = json.loads(next(tmp_path.glob("*-board/report.json")).read_text())
    assert (kept["latency"], kept["key"]) == (report["latency"], None)
    hosts.wait_until(lambda: board.programs() == [] and left_on(board) == [])


def left_on(board: Any) -> list[str]:
    """What lies in the board's folder for temporary files, without the lock of a run that was killed: it is free."""
    return [path.name for path in board.board_tmp.iterdir() if path.name != "edgeres.lock"]
