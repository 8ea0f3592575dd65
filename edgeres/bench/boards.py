"""The boards a user has named, and the agent that runs on them as one file.

    ~/.config/edgeres/boards.toml     [NAME] host = "a Host of ~/.ssh/config, or user@address"

How a board is reached is in `board_link`, what happens there in `board_session`.
"""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
from pathlib import Path

import edgeres
from edgeres.core.config import Record, toml_from
from edgeres.core.errors import InputError, did_you_mean
from edgeres.core.files import write_text

_AGENT = Path(__file__).with_name("agent")
_HOUSE = Path(edgeres.__file__).parent
SHARED = ("core/jetpacks.py", "runtime/cuda.py", "runtime/engine.py")  # what the agent takes along
HERE = "here"  # this machine, where a board is named
_MOST_PORT = 65535
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # a fixed date: the same sources are the same bytes


class Board(Record, extra="forbid"):
    """A board by the name the user gave it."""

    name: str
    host: str

    @property
    def address(self) -> str:
        """`host` as OpenSSH's programs take it, a port apart."""
        name, colon, port = self.host.rpartition(":")
        return f"-p {port} {name}" if colon and port.isdigit() and ":" not in name else self.host


def boards_file() -> Path:
    """Where boards are kept: EDGERES_BOARDS, or boards.toml in the user's configuration folder."""
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(os.environ.get("EDGERES_BOARDS") or Path(base) / "edgeres" / "boards.toml").expanduser()


def boards() -> dict[str, Board]:
    """Name -> board; raises InputError for a damaged file."""
    path = boards_file()
    if not path.exists():
        return {}
    rows = toml_from(path)
    for name, row in rows.items():
        if not isinstance(row, dict) or not isinstance(row.get("host"), str):
            raise InputError(f'{path}: board {name} needs a line host = "..."')
    return {name: checked_board(name, str(row["host"])) for name, row in rows.items()}


def checked_board(name: str, host: str) -> Board:
    """The board; raises InputError for a name or host that ssh could take for something else."""
    if not _NAME.fullmatch(name):
        raise InputError(f"board name {name!r}: letters, digits, '.', '_' and '-' only, starting with one of the first")
    if not re.fullmatch(r"(?:[A-Za-z0-9._-]+@)?[A-Za-z0-9\[][A-Za-z0-9._:\]-]*", host):
        raise InputError(f"host {host!r}: a Host of ~/.ssh/config, user@address or user@address:port")
    if (port := re.fullmatch(r"[^:]+:(\d+)", host)) and not 0 < int(port[1]) <= _MOST_PORT:
        raise InputError(f"host {host!r}: a port is at most {_MOST_PORT}")
    return Board(name=name, host=host)


def add_board(name: str, host: str) -> Board:
    """Keeps a board under `name`, replacing one of that name; raises InputError for what --on calls this machine."""
    if name == HERE:
        raise InputError(f"no board can be called {name!r}: it is this machine, in `edgeres gate --on here`")
    known = {**boards(), name: checked_board(name, host)}
    _keep(known)
    return known[name]


def remove_board(name: str) -> Board:
    """Forgets the board, and returns it; raises InputError with the closest name for an unknown one."""
    gone = board_named(name, "(see: edgeres board list)")
    _keep({other: board for other, board in boards().items() if other != name})
    return gone


def board_named(name: str, advice: str = "") -> Board:
    """The board; raises InputError with the closest name for an unknown one."""
    known = boards()
    if name not in known:
        same = [f"; did you mean {one.name}?" for one in known.values() if one.host.rpartition("@")[2] == name]
        near = same[0] if same else did_you_mean(name, known)
        todo = f" {advice}" if advice else "" if near else f"; add it: edgeres board add {name} HOST"
        raise InputError(f"no board {name!r}{near}{todo}")
    return known[name]


def _keep(known: dict[str, Board]) -> None:
    rows = [f"[{json.dumps(one.name)}]\nhost = {json.dumps(one.host)}\n" for one in known.values()]
    write_text(boards_file(), "\n".join(rows))


def agent_bytes() -> bytes:
    """The agent as one file that python3 runs: `python3 agent.pyz`."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        main = "import sys\n\nfrom edgeres_agent.__main__ import main\n\nsys.exit(main())\n"
        archive.writestr(zipfile.ZipInfo("__main__.py", _ZIP_DATE), main)
        for path in sorted(_AGENT.glob("*.py")):
            archive.writestr(zipfile.ZipInfo(f"edgeres_agent/{path.name}", _ZIP_DATE), path.read_bytes())
        for package in ("edgeres", "edgeres/core", "edgeres/runtime"):
            archive.writestr(zipfile.ZipInfo(f"{package}/__init__.py", _ZIP_DATE), "")
        for name in SHARED:
            archive.writestr(zipfile.ZipInfo(f"edgeres/{name}", _ZIP_DATE), (_HOUSE / name).read_bytes())
    return buffer.getvalue()
