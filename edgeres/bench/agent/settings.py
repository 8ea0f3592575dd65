"""The board's power mode and clocks, set for a measurement and put back at its end.

    nvpmodel -m ID                  the power mode; some of them are only taken at the next start
    jetson_clocks --store FILE      then jetson_clocks locks, and --restore FILE puts everything back

Both need root: the agent is it, or `sudo -n` lets it. Never run on real hardware so far.
"""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Iterator  # noqa: UP035 - Python 3.6

from . import detect, process
from .process import Refused

_TIMEOUT_S = 60.0
_NOT_ROOT = ("password is required", "as a root user", "not in the sudoers file")


@contextlib.contextmanager
def held(lock_clocks: "bool", power_mode: "str | None", folder: "str") -> "Iterator[list[str]]":
    """Sets what is asked for; yields what could not be put back, which is known when the block has ended.

    Raises Refused where it is not permitted or not possible, nothing being changed then.
    """
    complaints = []  # type: list[str]
    with contextlib.ExitStack() as stack:
        if power_mode is not None:
            stack.enter_context(_mode_held(power_mode, complaints))
        if lock_clocks:
            stack.enter_context(_clocks_locked(folder, complaints))
        yield complaints


@contextlib.contextmanager
def _mode_held(asked: "str", complaints: "list[str]") -> "Iterator[None]":
    before = detect.power_mode()
    if before is None:
        raise Refused("nvpmodel does not say this board's power mode, so it cannot be put back: it is not changed")
    number = _mode_id(asked)

    def put_back() -> "None":
        if detect.power_mode() != before:
            _noted(complaints, ["nvpmodel", "-m", str(before["id"])])

    with process.at_the_end(put_back):
        if before["id"] != number:
            _set_mode(asked, number)
        yield


def _mode_id(asked: "str") -> "int":
    """By name, or by its id; raises Refused with the names there are."""
    modes = detect.power_modes()
    found = [number for name, number in modes.items() if asked in (name, str(number))]
    if not found:
        listed = ", ".join(f"{name} ({number})" for name, number in sorted(modes.items(), key=lambda pair: pair[1]))
        raise Refused(f"no power mode {asked!r} on this board; it has: {listed or 'none in /etc/nvpmodel.conf'}")
    return found[0]


def _set_mode(asked: "str", number: "int") -> "None":
    words = ["nvpmodel", "-m", str(number)]
    code, said = _as_root(words)
    after = detect.power_mode()
    if after is not None and after["id"] == number:
        return
    if "reboot" in said.lower():
        raise Refused(f"power mode {asked} wants a reboot: set it yourself (sudo nvpmodel -m {number}) and run again")
    raise Refused(f"cannot set power mode {asked}: {_reason(code, said, words)}")


@contextlib.contextmanager
def _clocks_locked(folder: "str", complaints: "list[str]") -> "Iterator[None]":
    kept = Path(tempfile.mkdtemp(prefix="edgeres-clocks-", dir=str(Path(folder).resolve()))) / "clocks.conf"
    code, said = _as_root(["jetson_clocks", "--store", str(kept)])
    if code != 0 or not kept.is_file():
        shutil.rmtree(str(kept.parent), ignore_errors=True)
        raise Refused(f"cannot lock the clocks: {_reason(code, said, ['jetson_clocks'])}")

    def put_back() -> "None":
        if _noted(complaints, ["jetson_clocks", "--restore", str(kept)]):
            shutil.rmtree(str(kept.parent), ignore_errors=True)

    with process.at_the_end(put_back):
        code, said = _as_root(["jetson_clocks"])
        if code != 0:
            raise Refused(f"cannot lock the clocks: {_reason(code, said, ['jetson_clocks'])}")
        yield


def _noted(complaints: "list[str]", words: "list[str]") -> "bool":
    """Runs what puts something back; a failure is kept for the answer."""
    try:
        code, said = _as_root(words)
    except Refused as err:
        code, said = 1, str(err)
    if code != 0:
        complaints.append(f"not put back as it was: {_reason(code, said, words)}; run: sudo {' '.join(words)}")
    return code == 0


def _as_root(words: "list[str]") -> "tuple[int, str]":
    """Exit code and text of a program run as root."""
    if shutil.which(words[0]) is None:
        raise Refused(f"no {words[0]} on this board")
    done = process.run(words if os.geteuid() == 0 else ["sudo", "-n", *words], _TIMEOUT_S)
    return done.code, "\n".join(line for _, line in done.lines)


def _reason(code: "int", said: "str", words: "list[str]") -> "str":
    if any(sign in said for sign in _NOT_ROOT):
        return f"{words[0]} needs root and this user has no sudo without a password here"
    last = (said.strip().splitlines() or ["it said nothing"])[-1]
    return f"{words[0]} ended with exit {code}: {last}"
