"""The board's power mode and clocks, set for a measurement and put back at its end.

    nvpmodel -m ID                  the power mode; some of them are only taken at the next start
    jetson_clocks --store FILE      then jetson_clocks locks, and --restore FILE puts everything back

Both need root: the agent is it, or `sudo -n` lets it. What a run that was killed has left is put back by the next one.
Never run on real hardware so far.
"""

import contextlib
import os
import shutil
from pathlib import Path
from typing import Iterator  # noqa: UP035 - Python 3.6

from . import detect, lock, process, undo
from .process import Refused

_TIMEOUT_S = 60.0
_NOT_ROOT = ("password is required", "as a root user", "not in the sudoers file")


@contextlib.contextmanager
def held(lock_clocks: "bool", power_mode: "str | None") -> "Iterator[list[str]]":
    """Sets what is asked for; yields what could not be put back, which is known when the block has ended.

    Raises Refused where it is not permitted or not possible, nothing being changed then.
    """
    complaints = []  # type: list[str]
    with contextlib.ExitStack() as stack:
        if power_mode is not None:
            stack.enter_context(_mode_held(power_mode, complaints))
        if lock_clocks:
            stack.enter_context(_clocks_locked(complaints))
        yield complaints


def put_back_left() -> "list[str]":
    """Puts back what a run that was killed had set, and says so; only for who holds the board's lock."""
    said = []  # type: list[str]
    clocks = undo.left_clocks()
    if clocks is None or _undone("the clocks locked", _restoring(clocks), said):
        undo.forget(undo.LOCKED, undo.CLOCKS)
    mode = undo.left_mode()
    if mode is None or _undone(f"power mode {_name_of(mode[1])}", _setting(mode[0]), said):
        undo.forget(undo.MODE)
    return said


def left() -> "list[str]":
    """What a run that was killed has left, each with the command that puts it back; nothing while a run is at work."""
    clocks, mode = undo.left_clocks(), undo.left_mode()
    if (clocks is None and mode is None) or lock.is_held():
        return []
    found = [("the clocks locked", _restoring(clocks))] if clocks is not None else []
    found += [(f"power mode {_name_of(mode[1])}", _setting(mode[0]))] if mode is not None else []
    said = "a run that was killed has left {}; the next run puts it back, or: sudo {}"
    return [said.format(what, " ".join(words)) for what, words in found]


@contextlib.contextmanager
def _mode_held(asked: "str", complaints: "list[str]") -> "Iterator[None]":
    before = detect.power_mode()
    if before is None:
        raise Refused("nvpmodel does not say this board's power mode, so it cannot be put back: it is not changed")
    number = _mode_id(asked)
    if undo.left_mode() is not None:
        raise Refused(f"the power mode is still {before['name']}, set by a run that was killed; set it yourself")

    def put_back() -> "None":
        if detect.power_mode() == before or _noted(complaints, ["nvpmodel", "-m", str(before["id"])]):
            undo.forget(undo.MODE)

    with process.at_the_end(put_back):
        if before["id"] != number:
            undo.note_mode(int(str(before["id"])), number)
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


def _name_of(number: "int") -> "str":
    return next((name for name, other in detect.power_modes().items() if other == number), str(number))


def _set_mode(asked: "str", number: "int") -> "None":
    words = _setting(number)
    code, said = _as_root(words)
    after = detect.power_mode()
    if after is not None and after["id"] == number:
        return
    if "reboot" in said.lower():
        raise Refused(f"power mode {asked} wants a reboot: set it yourself (sudo nvpmodel -m {number}) and run again")
    raise Refused(f"cannot set power mode {asked}: {_reason(code, said, words)}")


@contextlib.contextmanager
def _clocks_locked(complaints: "list[str]") -> "Iterator[None]":
    left = undo.left_clocks()
    if left is not None:
        raise Refused(f"the clocks are still locked by a run that was killed; run: sudo {' '.join(_restoring(left))}")
    stored = _stored()

    def put_back() -> "None":
        if _noted(complaints, _restoring(stored)):
            undo.forget(undo.LOCKED, undo.CLOCKS)

    with process.at_the_end(put_back):
        undo.note_clocks()
        code, said = _as_root(["jetson_clocks"])
        if code != 0:
            raise Refused(f"cannot lock the clocks: {_reason(code, said, ['jetson_clocks'])}")
        yield


def _stored() -> "Path":
    """The file in which jetson_clocks has kept the clocks; it asks before it overwrites one."""
    undo.forget(undo.LOCKED, undo.CLOCKS)
    path = undo.folder() / undo.CLOCKS
    try:
        code, said = _as_root(["jetson_clocks", "--store", str(path)])
        if code != 0 or not path.is_file():
            raise Refused(f"cannot lock the clocks: {_reason(code, said, ['jetson_clocks'])}")
    except Refused:
        undo.forget(undo.CLOCKS)
        raise
    return path


def _setting(number: "int") -> "list[str]":
    return ["nvpmodel", "-m", str(number)]


def _restoring(path: "Path") -> "list[str]":
    return ["jetson_clocks", "--restore", str(path)]


def _undone(what: "str", words: "list[str]", said: "list[str]") -> "bool":
    complaints = []  # type: list[str]
    is_back = _noted(complaints, words)
    said.append(f"a run that was killed had left {what}: {'put back' if is_back else complaints[0]}")
    return is_back


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
    return f"{words[0]} ended with {process.ending(code)}: {last}"
