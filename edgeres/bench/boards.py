"""A board over ssh: the user's own ~/.ssh/config, keys and agent; the agent copied over, run there and removed.

Host keys are verified: a host that is not in known_hosts is refused. Every word of a remote command is quoted.
A run has a folder of its own on the board, `edgeres-run-XXXXXXXX` below its TMPDIR or /tmp; it is removed at the
end, and by the agent itself when the connection is lost (its stdin ends). Every upload is checked by its sha256.

    ~/.config/edgeres/boards.toml     [NAME] host = "a Host of ~/.ssh/config, or user@address"

Tested against OpenSSH on the same machine and programs that imitate JetPack's; never on a real board so far.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shlex
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from edgeres.core.config import Record, toml_from
from edgeres.core.errors import DeviceError, InputError, did_you_mean, require
from edgeres.core.files import sha256_of, write_text

_AGENT = Path(__file__).with_name("agent")
_AGENT_NAME = "agent.pyz"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # a fixed date: the same sources are the same bytes
_CONNECT_S = 15
_SYSTEM_KEYS = "/etc/ssh/ssh_known_hosts"
_RUN_FOLDER = re.compile(r"/\S*/edgeres-run-\w+")


class Board(Record, extra="forbid"):
    """A board by the name the user gave it."""

    name: str
    host: str


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
        raise InputError(f"host {host!r}: a Host of ~/.ssh/config, or user@address")
    return Board(name=name, host=host)


def add_board(name: str, host: str) -> Board:
    """Keeps a board under `name`, replacing one of that name."""
    known = {**boards(), name: checked_board(name, host)}
    rows = [f"[{json.dumps(one.name)}]\nhost = {json.dumps(one.host)}\n" for one in known.values()]
    write_text(boards_file(), "\n".join(rows))
    return known[name]


def board_named(name: str) -> Board:
    """The board; raises InputError with the closest name for an unknown one."""
    known = boards()
    if name not in known:
        raise InputError(f"no board {name!r}{did_you_mean(name, known)}; add it: edgeres board add {name} HOST")
    return known[name]


def agent_bytes() -> bytes:
    """The agent as one file that python3 runs: `python3 agent.pyz`."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        main = "import sys\n\nfrom edgeres_agent.__main__ import main\n\nsys.exit(main())\n"
        archive.writestr(zipfile.ZipInfo("__main__.py", _ZIP_DATE), main)
        for path in sorted(_AGENT.glob("*.py")):
            archive.writestr(zipfile.ZipInfo(f"edgeres_agent/{path.name}", _ZIP_DATE), path.read_bytes())
    return buffer.getvalue()


class Session:
    """An open connection with a run folder on the board."""

    def __init__(self, connection: Any, board: Board, folder: str) -> None:
        self.board = board
        self.folder = folder
        self._connection = connection

    def upload(self, source: Path, name: str) -> str:
        """Copies a file into the run folder; returns its path there. Raises DeviceError if it did not arrive whole."""
        return self._put(source.read_bytes(), name, sha256_of(source))

    def agent(self, *arguments: str) -> dict[str, Any]:
        """Runs one job of the agent; raises DeviceError with the agent's own line if it cannot be done."""
        command = ["python3", f"{self.folder}/{_AGENT_NAME}", "--leash", "--remove", self.folder, *arguments]
        code, out, err = _run(self._connection, command, self.board)
        try:
            answer: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
        except (IndexError, ValueError) as cause:
            last = (err.strip().splitlines() or ["it said nothing"])[-1]
            raise DeviceError(f"{self.board.name}: the agent ended with exit {code}: {last}") from cause
        if "error" in answer:
            raise DeviceError(f"{self.board.name}: {answer['error']}")
        return answer

    def _put(self, content: bytes, name: str, sha256: str) -> str:
        remote = f"{self.folder}/{name}"
        try:
            self._connection.put(io.BytesIO(content), remote)
        except (OSError, EOFError) as err:
            raise DeviceError(f"{self.board.name}: cannot write {remote}: {err or 'connection lost'}") from err
        _, out, _ = _run(self._connection, ["sha256sum", remote], self.board)
        if out.split()[:1] != [sha256]:
            raise DeviceError(f"{self.board.name}: {remote} did not arrive whole; is its disk full?")
        return remote


@contextmanager
def session(board: Board) -> Iterator[Session]:
    """Connects, makes the run folder, copies the agent; removes the folder at the end.

    Raises MissingDependency without fabric, DeviceError if the board cannot be reached or its key is not known.
    """
    with _connected(board) as connection:
        code, out, err = _run(connection, ["mktemp", "-d", "-t", "edgeres-run-XXXXXXXX"], board)
        folder = out.strip()
        if code or not _RUN_FOLDER.fullmatch(folder):
            raise DeviceError(f"{board.name}: cannot make a folder for the run: {err.strip() or out.strip()}")
        try:
            opened, content = Session(connection, board, folder), agent_bytes()
            opened._put(content, _AGENT_NAME, hashlib.sha256(content).hexdigest())
            yield opened
        finally:
            _remove(connection, folder, board)


@contextmanager
def _connected(board: Board) -> Iterator[Any]:
    fabric, paramiko = require("fabric", "boards"), require("paramiko", "boards")
    connection = fabric.Connection(board.host, connect_timeout=_CONNECT_S)
    hop = connection
    while isinstance(hop, fabric.Connection):
        _verify_keys(hop, paramiko.RejectPolicy())
        hop = hop.gateway  # the jump host, whose own key counts as much
    try:
        try:
            connection.open()
        except Exception as err:  # paramiko, socket and invoke have no common root
            raise DeviceError(_why_not(board, err)) from err
        yield connection
    finally:
        with suppress(EOFError, OSError):  # paramiko's answer to closing what the other side has closed
            connection.close()


def _verify_keys(connection: Any, policy: Any) -> None:
    """Known keys are those of ~/.ssh/known_hosts, the system, and the files ~/.ssh/config names for this host."""
    named = str(connection.ssh_config.get("userknownhostsfile", "")).split()
    connection.client.load_system_host_keys()
    for path in map(Path, [_SYSTEM_KEYS, *named]):
        if path.expanduser().is_file():
            connection.client.load_system_host_keys(str(path.expanduser()))
    connection.client.set_missing_host_key_policy(policy)


def _why_not(board: Board, err: Exception) -> str:
    text = " ".join(str(err).split())
    if type(err).__name__ == "BadHostKeyException":
        return f"{board.name}: {board.host} shows another host key than known_hosts has; not connected: {text}"
    if "not found in known_hosts" in text:
        return f"{board.name}: the host key of {board.host} is not known; look at it and accept it: ssh {board.host}"
    return f"{board.name}: cannot reach {board.host} over ssh: {type(err).__name__}: {text}"


def _run(connection: Any, words: Sequence[str], board: Board) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a remote program; its stdin stays open as long as the connection is."""
    command = shlex.join(words)
    try:
        stdin, stdout, stderr = connection.client.exec_command(command)
        out, err = stdout.read().decode(errors="replace"), stderr.read().decode(errors="replace")
        code = stdout.channel.recv_exit_status()
        stdin.close()
    except Exception as cause:  # paramiko and socket have no common root
        raise DeviceError(f"{board.name}: the connection was lost during {words[0]}: {cause}") from cause
    if code < 0:
        how = "it was ended by a signal" if connection.is_connected else "the connection was lost"
        raise DeviceError(f"{board.name}: {words[0]} gave no answer: {how}")
    return code, out, err


def _remove(connection: Any, folder: str, board: Board) -> None:
    """Removes the run folder; a lost connection leaves that to the agent."""
    with suppress(DeviceError):
        _run(connection, ["rm", "-rf", "--", folder], board)
