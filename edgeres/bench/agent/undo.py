"""What a run changes on the board, written down before it is changed: the next run undoes it if that one is killed.

    /var/tmp/edgeres-kept-UID, which is there after a power cut too, as the power mode is:
        mode.json       {"before": 2, "during": 0}: ids of power modes
        clocks.conf     what `jetson_clocks --store` wrote
        clocks.json     {"boot": boot_id, "mode": 0}: when, and in which power mode, they were locked

The folder is this user's alone: what is in it is done as root. Of what another user's run left nothing is touched. What
has changed since (another power mode, a restart, clocks that are free) was somebody's decision and is left alone.
"""

import contextlib
import json
import os
import stat
from pathlib import Path
from typing import Any

from . import detect
from .process import Refused

MODE, CLOCKS, LOCKED = "mode.json", "clocks.conf", "clocks.json"
_BOOT = Path("/proc/sys/kernel/random/boot_id")


def place() -> "Path":
    """Where it is written down."""
    return detect.path_of("var/tmp") / f"edgeres-kept-{os.getuid()}"


def folder() -> "Path":
    """The same, made; raises Refused if another user could have written into it."""
    path = place()
    with contextlib.suppress(FileExistsError):
        os.mkdir(str(path), 0o700)  # noqa: PTH102 - the mode at once, whatever the umask
    if not _is_own(path):
        raise Refused(f"{path} is no folder of this user alone: who made it? Remove it and try again")
    return path


def note_mode(before: "int", during: "int") -> "None":
    """Before the power mode is set."""
    _write(MODE, {"before": before, "during": during})


def note_clocks() -> "None":
    """Before the clocks are locked; from now on clocks.conf counts."""
    _write(LOCKED, {"boot": _boot(), "mode": _mode_now()})


def left_mode() -> "tuple[int, int] | None":
    """(before, during) of a power mode that is still as a run which was killed has set it."""
    found = _read(MODE)
    try:
        before, during = int(found["before"]), int(found["during"])
    except (KeyError, TypeError, ValueError):
        return None
    return (before, during) if _mode_now() == during else None


def left_clocks() -> "Path | None":
    """The file for `jetson_clocks --restore`, if the clocks are still locked by a run that was killed."""
    found = _read(LOCKED)
    if not found or found != {"boot": _boot(), "mode": _mode_now()}:
        return None
    clock = detect.gpu_clock()
    is_free = clock is not None and not clock["is_locked"]
    return None if is_free else place() / CLOCKS


def forget(*names: "str") -> "None":
    """What has been put back, or need not be."""
    if not _is_own(place()):
        return
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            (place() / name).unlink()
    with contextlib.suppress(OSError):  # something else is still in it
        place().rmdir()


def _write(name: "str", note: "dict[str, Any]") -> "None":
    """On the disk when it returns: what is changed next outlives a power cut."""
    with (folder() / name).open("w") as file:
        json.dump(note, file)
        file.flush()
        os.fsync(file.fileno())
    for place_of in (place(), place().parent):
        descriptor = os.open(str(place_of), os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def _is_own(path: "Path") -> "bool":
    try:
        found = os.lstat(str(path))
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077


def _read(name: "str") -> "dict[str, Any]":
    """Empty if it is not there, or if the run was killed while it was written: then nothing was changed yet."""
    if not _is_own(place()):
        return {}
    try:
        found = json.loads((place() / name).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _boot() -> "str":
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return ""


def _mode_now() -> "int | None":
    mode = detect.power_mode()
    return None if mode is None else int(str(mode["id"]))
