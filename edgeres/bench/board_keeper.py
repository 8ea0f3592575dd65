"""Runs on a board, Python 3.6 and the standard library alone: keeps a run's folder while the laptop is there.

    keeper.py FOLDER GRACE_S    removes FOLDER if it is still there GRACE_S seconds after stdin ended (the connection
                                was lost), unless another keeper has taken it over by then. At its start it removes what
                                runs left beside it whose keeper is gone (the board lost power); after a lost connection
                                it has the agent put back what a killed run had set, which otherwise the next run does
                                and says

FOLDER/owner names the keeper: its process id and when that process began, so that a number used again is not mistaken.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

PREFIX = "edgeres-run-"  # only folders of this name are ever removed
_AGENT, _OWNER = "agent.pyz", "owner"
_KEPT = "edgeres-kept-"  # and the user's number: what the agent has changed on the board, see its module `kept`
_RESTORE_S = 120.0
_BEGAN = 19  # of the fields after the program's name in /proc/PID/stat, see proc(5)
_UNOWNED_S = 600.0  # a folder without a keeper that is younger may be one that is just being made
_POLL_S = 0.5


def hold(folder: "Path", grace_s: "float") -> "None":
    """Until stdin ends, and `grace_s` longer where the folder is still there."""
    own = _signature(os.getpid())
    (folder / "owner.new").write_text(own)
    (folder / "owner.new").rename(folder / _OWNER)
    _sweep(folder.parent)
    sys.stdout.write("holding\n")
    sys.stdout.flush()
    while os.read(0, 16):
        pass
    end_s = time.monotonic() + grace_s
    while time.monotonic() < end_s and _owner(folder) == own:
        time.sleep(_POLL_S)
    if _owner(folder) == own:
        _restore(folder)
        _remove(folder)


def _restore(folder: "Path") -> "None":
    """Clocks and power mode of a run that was killed; the agent refuses while another run holds the board."""
    root = Path(os.environ.get("EDGERES_BOARD_ROOT", "/"))
    agent, kept = folder / _AGENT, root / "var/tmp" / (_KEPT + str(os.getuid()))
    if not (agent.is_file() and kept.is_dir()):
        return
    words, nothing = [sys.executable, str(agent), "restore"], subprocess.DEVNULL
    with contextlib.suppress(subprocess.TimeoutExpired, OSError):
        subprocess.run(words, stdin=nothing, stdout=nothing, stderr=nothing, timeout=_RESTORE_S, check=False)


def _sweep(parent: "Path") -> "None":
    for folder in parent.glob(PREFIX + "*"):
        try:
            is_own = folder.is_dir() and not folder.is_symlink() and folder.stat().st_uid == os.getuid()
            age_s = time.time() - folder.stat().st_mtime  # noqa: TID251  # the time of a file is a date
        except OSError:
            continue
        owner = _owner(folder)
        if is_own and (age_s > _UNOWNED_S if owner is None else _signature(int(owner.split()[0])) != owner):
            _remove(folder)


def _owner(folder: "Path") -> "str | None":
    """The keeper's signature; None if the folder has none."""
    try:
        text = (folder / _OWNER).read_text()
    except OSError:
        return None
    return text if text.split(" ")[0].isdigit() else None


def _signature(pid: "int") -> "str":
    """Process id and when it began, in clock ticks since boot; the id alone of one that is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return f"{pid} gone"
    return f"{pid} {fields[_BEGAN]}"


def _remove(folder: "Path") -> "None":
    if folder.name.startswith(PREFIX):
        shutil.rmtree(str(folder), ignore_errors=True)


if __name__ == "__main__":
    hold(Path(sys.argv[1]), float(sys.argv[2]))
