"""A connection to a board: ssh with the user's own ~/.ssh/config, keys and agent.

Host keys are verified, that of a jump host too: one that is not in known_hosts is refused. Every word of a remote
command is quoted. A network that falls silent is noticed within about a minute and a half.
"""

from __future__ import annotations

import contextlib
import shlex
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeres.bench.boards import Board
from edgeres.core.errors import DeviceError, require

_CONNECT_S = 15
_KEEPALIVE_S = 15
_SILENCE_MS = 60_000  # a packet not acknowledged for so long ends the connection
_USUAL_PORT = 22
_ENCRYPTED = ("encrypted", "passphrase")
_KILLED = 128 + 9  # what a shell between says of a program that was killed
_SYSTEM_KEYS = "/etc/ssh/ssh_known_hosts"


class Lost(DeviceError):
    """The connection was lost; another may go on."""


class Killed(DeviceError):
    """A signal ended the remote program before it could answer."""


@dataclass(frozen=True)
class Answer:
    """What a remote program left: exit code and text."""

    code: int
    out: str
    err: str


class Link:
    """Connected while the block runs; `reconnect` makes a new connection after a lost one.

    Raises MissingDependency without fabric, DeviceError if the board cannot be reached or its key is not known.
    """

    def __init__(self, board: Board) -> None:
        self.board = board
        self._connection: Any = None
        self._files: Any = None

    def __enter__(self) -> Link:
        self.reconnect()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def reconnect(self) -> None:
        """Connects, closing what was open."""
        self.close()
        self._connection = _connected(self.board)

    def close(self) -> None:
        """Closes the connection, which may be lost already."""
        if self._connection is not None:
            with contextlib.suppress(EOFError, OSError):  # paramiko's answer to closing what the other side has closed
                self._connection.close()
        self._connection = self._files = None

    @property
    def is_up(self) -> bool:
        """Whether the connection stands, as far as is known."""
        return self._connection is not None and bool(self._connection.is_connected)

    def run(self, words: Sequence[str], say: Callable[[str], None] | None = None) -> Answer:
        """Runs a remote program to its end; each line of its stderr is given to `say` at once.

        Its stdin stays open as long as it runs. Raises Lost if the connection ends before the program, Killed if a
        signal ends it.
        """
        try:
            return self._run(words, say)
        except DeviceError:
            raise
        except Exception as cause:  # paramiko and socket have no common root
            raise Lost(f"{self.board.name}: the connection was lost during {words[0]}: {cause}") from cause

    def started(self, words: Sequence[str]) -> Any:
        """The channel of a remote program that runs on; its stdin ends when the connection does."""
        try:
            channel = self._connection.client.get_transport().open_session()
            channel.exec_command(shlex.join(words))
        except Exception as cause:
            raise Lost(f"{self.board.name}: the connection was lost: {cause}") from cause
        return channel

    def files(self) -> Any:
        """An SFTPClient of paramiko over the present connection."""
        if self._files is None:  # fabric's own would connect again by itself, without a keeper
            self._files = self._connection.client.open_sftp()
        return self._files

    def _run(self, words: Sequence[str], say: Callable[[str], None] | None) -> Answer:
        stdin, stdout, stderr = self._connection.client.exec_command(shlex.join(words))
        try:
            errors = _Reader(stderr, say)
            out = stdout.read().decode(errors="replace")
            err = errors.text()
            code = stdout.channel.recv_exit_status()
        finally:
            stdin.channel.close()
        if code < 0 and not self.is_up:
            raise Lost(f"{self.board.name}: the connection was lost during {words[0]}")
        if code < 0 or code == _KILLED:
            raise Killed(f"{self.board.name}: {words[0]} gave no answer: it was ended by a signal")
        return Answer(code, out, err)


class _Reader:
    """Reads a program's stderr beside its stdout."""

    def __init__(self, stream: Any, say: Callable[[str], None] | None) -> None:
        self._stream, self._say = stream, say
        self._lines: list[str] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def text(self) -> str:
        """All of it, when the program has ended."""
        self._thread.join()
        return "".join(self._lines)

    def _read(self) -> None:
        with contextlib.suppress(OSError, EOFError):
            for line in self._stream:
                self._lines.append(line)
                if self._say is not None:
                    self._say(line.rstrip("\n"))


def _connected(board: Board) -> Any:
    fabric, paramiko = require("fabric", "boards"), require("paramiko", "boards")
    connection = fabric.Connection(board.host, connect_timeout=_CONNECT_S)
    hops = [connection]
    while isinstance(hops[-1].gateway, fabric.Connection):
        hops.append(hops[-1].gateway)  # the jump host, whose own key counts as much
    for hop in hops:
        _verify_keys(hop, paramiko.RejectPolicy())
    try:
        connection.open()
    except Exception as err:  # paramiko, socket and invoke have no common root
        with contextlib.suppress(EOFError, OSError):
            connection.close()
        raise why_not(board, err, {hop.host: hop.port for hop in hops}) from err
    transport = connection.client.get_transport()
    transport.set_keepalive(_KEEPALIVE_S)  # makes a silent network an error
    if isinstance(transport.sock, socket.socket) and hasattr(socket, "TCP_USER_TIMEOUT"):
        transport.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _SILENCE_MS)
    return connection


def _verify_keys(connection: Any, policy: Any) -> None:
    """Known keys are those of ~/.ssh/known_hosts, the system, and the files ~/.ssh/config names for this host."""
    named = str(connection.ssh_config.get("userknownhostsfile", "")).split()
    connection.client.load_system_host_keys()
    for path in map(Path, [_SYSTEM_KEYS, *named]):
        if path.expanduser().is_file():
            connection.client.load_system_host_keys(str(path.expanduser()))
    connection.client.set_missing_host_key_policy(policy)


def why_not(board: Board, err: Exception, ports: dict[str, int]) -> DeviceError:
    """Why `board` cannot be reached, with what to do next."""
    text = " ".join(str(err).split())
    if type(err).__name__ == "BadHostKeyException":
        return DeviceError(f"{board.name}: {changed_key(board.host, err, ports)}")
    if "not found in known_hosts" in text:
        return DeviceError(
            f"{board.name}: the host key of {board.host} is not known; look at it and accept it: ssh {board.host}"
        )
    return Lost(f"{board.name}: {unreachable(board.host, err, _CONNECT_S)}")


def changed_key(host: str, err: BaseException, ports: dict[str, int]) -> str:
    """What a host key that has changed means, and how to go on where that is right.

    `ports` are those of all hosts on the way: known_hosts names a host with its port unless that is the usual one.
    """
    named = str(getattr(err, "hostname", host))
    port = ports.get(named, _USUAL_PORT)
    named = named if port == _USUAL_PORT else f"[{named}]:{port}"
    return (
        f"{host} shows another host key than known_hosts has; not connected. Was the board set up anew, or is it"
        f" another machine? If the key may be new: ssh-keygen -R {shlex.quote(named)}, then look at it: ssh {host}"
    )


def unreachable(host: str, err: BaseException, seconds: float) -> str:
    """What went wrong on the way to `host`; `seconds` is how long an answer was waited for."""
    return f"cannot reach {host} over ssh: {_reason(host, err, seconds)}"


def _reason(host: str, err: BaseException, seconds: float) -> str:
    kinds = {kind.__name__ for kind in type(err).__mro__}
    text = " ".join(str(err).split())
    if "PasswordRequiredException" in kinds or any(word in text for word in _ENCRYPTED):
        return "the key has a passphrase; give it to the agent: ssh-add"
    if "AuthenticationException" in kinds or text.startswith("No authentication methods"):
        return f"it knows no key of yours; try: ssh {host}, or send it a key: ssh-copy-id {host}"
    if isinstance(err, socket.gaierror):
        return f"no machine of that name is found; is it spelt as in ~/.ssh/config? try: ssh {host}"
    if isinstance(err, TimeoutError):
        return f"no answer within {seconds:g} s; is the board on and in this network? try: ssh {host}"
    if isinstance(err, (FileNotFoundError, PermissionError)) and err.filename:
        return f"{err.filename}: {str(err.strerror).lower()}; is it the IdentityFile of ~/.ssh/config? try: ssh {host}"
    if isinstance(err, OSError):
        return f"{_said(err)}; is the board on, and does its ssh server run? try: ssh {host}"
    return f"{text or type(err).__name__}; try: ssh {host}"


def _said(err: OSError) -> str:
    """What the system says, that of the first address where several were tried."""
    tried = getattr(err, "errors", None)
    first = next(iter(tried.values()), err) if isinstance(tried, dict) else err
    return str(first.strerror or first).lower() if isinstance(first, OSError) else str(first)
