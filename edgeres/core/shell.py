"""The run that each shell worked in last, so that two shells do not mix their runs.

runs/.shells/SESSION holds `BEGAN NAME`: the terminal session (its leader's process id), when that process began, and
the run that became the current one by a command of it.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from edgeres.core.files import write_text
from edgeres.core.process import process_began

_SHELLS = ".shells"


def last_of_shell(runs: Path) -> str | None:
    """The name of the run in `runs` that a command of this shell made the current one last; None if there is none."""
    with contextlib.suppress(OSError, ValueError):
        path, began = _record(runs)
        said, _, name = path.read_text(encoding="utf-8").strip().partition(" ")
        return name if said == began and (runs / name).is_dir() else None
    return None


def note_for_shell(runs: Path, name: str) -> None:
    """Notes that a command of this shell made `name` the current run; records of shells that are gone go."""
    with contextlib.suppress(OSError, ValueError):
        path, began = _record(runs)
        others = path.parent.iterdir() if path.parent.is_dir() else ()
        for gone in [one for one in others if one.name.isdecimal() and process_began(int(one.name)) is None]:
            gone.unlink()
        write_text(path, f"{began} {name}\n")


def _record(runs: Path) -> tuple[Path, str]:
    """(the file, when the shell began); raises ValueError without a shell. torchrun's workers are its shell's."""
    session = os.getsid(os.getppid()) if hasattr(os, "getsid") else 0
    began = process_began(session)
    if began is None:
        raise ValueError(session)
    return runs / _SHELLS / str(session), began
