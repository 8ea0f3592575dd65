"""Child processes that never outlive the agent, and a leash to the computer that started it."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

GONE = 70  # exit code when the other end of the leash is gone; nobody reads it
RUN_PREFIX = "edgeres-run-"  # only folders of this name are ever removed
_PATIENCE_S = 5.0
_LIVE = []  # type: list[subprocess.Popen[str]]
_LOST = threading.Event()


class Finished(NamedTuple):
    """Exit code (negative: signal), and every line of output with the monotonic second it came at."""

    code: "int"
    lines: "list[tuple[float, str]]"
    timed_out: "bool"


def start(arguments: "list[str]") -> "subprocess.Popen[str]":
    """Starts a program in a process group of its own, output in one pipe, line by line."""
    child = subprocess.Popen(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
        errors="replace",
        bufsize=1,
        start_new_session=True,
    )
    _LIVE.append(child)
    return child


def run(arguments: "list[str]", timeout_s: "float") -> "Finished":
    """Runs a program to its end; after `timeout_s` it is killed."""
    child, expired = start(arguments), threading.Event()

    def expire() -> "None":
        expired.set()
        kill(child)

    timer = threading.Timer(timeout_s, expire)
    timer.daemon = True
    timer.start()
    try:
        assert child.stdout is not None
        lines = [(time.monotonic(), line.rstrip("\n")) for line in child.stdout]
        return Finished(child.wait(), lines, expired.is_set())
    finally:
        timer.cancel()
        kill(child)


def output_of(arguments: "list[str]", timeout_s: "float" = 20.0) -> "str":
    """What a small program prints; empty if it is absent, fails or hangs."""
    try:
        done = run(arguments, timeout_s)
    except OSError:
        return ""
    return "\n".join(line for _, line in done.lines) if done.code == 0 else ""


def kill(child: "subprocess.Popen[str]") -> "None":
    """Ends a program and what it started: first asked, then forced."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, number)
        try:
            child.wait(_PATIENCE_S)
            break
        except subprocess.TimeoutExpired:
            continue
    if child in _LIVE:
        _LIVE.remove(child)


def kill_all() -> "None":
    """Ends every program that is still running."""
    for child in _LIVE[:]:
        kill(child)


def hold_leash(folder: "str | None") -> "None":
    """From now on the end of stdin (the connection was lost) ends everything and removes the run's `folder`."""
    threading.Thread(target=_wait_for_end, args=(folder,), daemon=True).start()


def wait_if_lost() -> "None":
    """Once the leash has ended, the thread that holds it cleans up and ends the process: this waits for that."""
    while _LOST.is_set():
        time.sleep(1.0)


def exit_on_signals() -> "None":
    """A signal unwinds the stack, so that children are ended on the way."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, lambda number, frame: sys.exit(128 + number))


def remove_run(folder: "str") -> "None":
    """Removes a run's folder, and nothing that is not one."""
    if Path(folder).name.startswith(RUN_PREFIX):
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for_end(folder: "str | None") -> "None":
    while os.read(0, 1):  # not sys.stdin: its lock, held by this thread, aborts Python at exit
        pass
    _LOST.set()
    kill_all()
    if folder:
        remove_run(folder)
    os._exit(GONE)
