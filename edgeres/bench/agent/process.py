"""Child processes that never outlive the agent, what is put back at its end, and a leash to who started it.

The agent ends in one of three ways: its job is done, a signal unwinds the stack, or the leash's thread sees that the
connection is lost. In each of them the acts given to `at_the_end` are done once, the latest first. Killed, it can do
nothing any more: its children die with it (`bond`), and the next run puts back what it had set (`undo`).
"""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Callable, Iterator, NamedTuple  # noqa: UP035 - Python 3.6

GONE = 70  # exit code when the other end of the leash is gone; nobody reads it
RUN_PREFIX = "edgeres-run-"  # only a folder of this name is ever removed
_PATIENCE_S = 5.0
_PR_SET_PDEATHSIG, _ENDED = 1, 1
_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
_LIVE = []  # type: list[subprocess.Popen[str]]
_ACTS = []  # type: list[Callable[[], None]]
_ENDING = threading.RLock()  # held while something is started or put back


class Refused(Exception):
    """The board cannot do it; one line that says why and what to do."""


class Finished(NamedTuple):
    """Exit code (negative: signal), and every line of output with the monotonic second it came at."""

    code: "int"
    lines: "list[tuple[float, str]]"
    timed_out: "bool"


def start(arguments: "list[str]") -> "subprocess.Popen[str]":
    """Starts a program in a process group of its own, output in one pipe, line by line."""
    with _ENDING:
        child = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            universal_newlines=True,
            errors="replace",
            bufsize=1,
            start_new_session=True,
            preexec_fn=bond(),
        )
        _LIVE.append(child)
        return child


def bond() -> "Callable[[], None] | None":
    """To be called in the child between fork and exec, so that it dies with the agent, also where that is killed.

    None where there is no prctl. All it needs is looked up here: between fork and exec of a program with threads little
    may be done. The kernel sends the signal when the *thread* that started the child ends: children are started by the
    main thread and by the leash's, and both last as long as the process. Two kinds are not reached: what runs through
    sudo, where the kernel forgets the setting (it ends by itself, and is short), and what a child starts in turn.

    Source: prctl(2), PR_SET_PDEATHSIG.
    """
    try:
        prctl = ctypes.CDLL(None).prctl
    except (OSError, AttributeError):
        return None
    parent, name, number = os.getpid(), ctypes.c_int(_PR_SET_PDEATHSIG), ctypes.c_ulong(signal.SIGKILL)

    def follow() -> "None":
        prctl(name, number)
        if os.getppid() != parent:  # it ended before this child could ask
            os._exit(_ENDED)

    return follow


def run(arguments: "list[str]", timeout_s: "float") -> "Finished":
    """Runs a program to its end; after `timeout_s` it is killed."""
    child, expired = start(arguments), threading.Event()

    def expire() -> "None":
        expired.set()
        kill(child)

    timer = threading.Timer(timeout_s, expire)
    timer.daemon = True
    timer.start()
    assert child.stdout is not None
    try:
        lines = [(time.monotonic(), line.rstrip("\n")) for line in child.stdout]
        return Finished(child.wait(), lines, expired.is_set())
    finally:
        timer.cancel()
        kill(child)
        child.stdout.close()


def ending(code: "int") -> "str":
    """How a program with this exit code ended."""
    if code == -signal.SIGKILL:
        return f"signal {-code}, as the kernel does when memory runs out"
    return f"signal {-code}" if code < 0 else f"exit {code}"


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


@contextlib.contextmanager
def at_the_end(act: "Callable[[], None]") -> "Iterator[None]":
    """Does `act` when the block ends, however it ends."""
    _ACTS.append(act)
    try:
        yield
    finally:
        _do(act)


def finish() -> "None":
    """Ends every program and does what is left to do at the end."""
    with _ENDING:
        kill_all()
        for act in reversed(_ACTS[:]):
            _do(act)


def hold_leash() -> "None":
    """From now on the end of stdin (the connection was lost) ends everything and removes the run's folder."""
    threading.Thread(target=_watch_stdin, daemon=True).start()


def exit_on_signals() -> "None":
    """A signal unwinds the stack, so that children are ended and settings put back on the way."""
    for number in _SIGNALS:
        signal.signal(number, lambda number, frame: sys.exit(128 + number))


def say(text: "str") -> "None":
    """A line for who watches."""
    sys.stderr.write(f"agent: {text}\n")
    sys.stderr.flush()


def _do(act: "Callable[[], None]") -> "None":
    """Once; the leash's thread waits until it is done, a signal comes too late."""
    with _ENDING, _signals_ignored():
        if act in _ACTS:
            _ACTS.remove(act)
            act()


@contextlib.contextmanager
def _signals_ignored() -> "Iterator[None]":
    if threading.current_thread() is not threading.main_thread():  # Python lets only that one set handlers
        yield
        return
    before = [(number, signal.signal(number, signal.SIG_IGN)) for number in _SIGNALS]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def _watch_stdin() -> "None":
    while os.read(0, 1):  # not sys.stdin: its lock, held by this thread, aborts Python at exit
        pass
    with _ENDING:  # for good: whoever starts something, or ends, waits here until the process is gone
        kill_all()
        for act in reversed(_ACTS[:]):
            with contextlib.suppress(Refused, OSError):
                _do(act)
        run = Path(sys.argv[0]).parent  # where the laptop has put this agent
        if run.name.startswith(RUN_PREFIX):
            shutil.rmtree(str(run), ignore_errors=True)
        os._exit(GONE)
