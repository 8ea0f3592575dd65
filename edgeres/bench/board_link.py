"""A connection to a board: ssh with the user's own ~/.ssh/config, keys and agent.

Host keys are verified, that of a jump host too: one that is not in known_hosts is refused. Every word of a remote
command is quoted. A network that falls silent is noticed within about a minute and a half; a program there that says
nothing, or no end of it, is ended.
"""

from __future__ import annotations

import contextlib
import logging
import select
import shlex
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from edgeres.bench.boards import Board
from edgeres.core.errors import DeviceError, require

_CONNECT_S = 15
OPENED_S = 60.0  # a whole way over jump hosts; a program's start, an answer about a file
SHORT_S = 60.0  # for what does not compute
SHORT_BYTES = 1 << 20  # of a program's stdout, and of anyone's stderr
_KEPT_BYTES = 1 << 16  # of its stderr, the last
_AT_ONCE = 1 << 16
_KEEPALIVE_S = 15
_SILENCE_MS = 60_000  # a packet not acknowledged for so long ends the connection
_USUAL_PORT = 22
_ENCRYPTED = ("encrypted", "passphrase")
_KILLED = 128 + 9  # what a shell between says of a program that was killed
_SYSTEM_KEYS = "/etc/ssh/ssh_known_hosts"
_UNHEARD = logging.NullHandler()  # without one Python prints what paramiko logs, traceback and all


class Lost(DeviceError):
    """The connection was lost; another may go on."""


class Killed(DeviceError):
    """A signal ended the remote program before it could answer."""


class Answer(NamedTuple):
    """What a remote program left: exit code and text."""

    code: int
    out: str
    err: str


class Limits(NamedTuple):
    """How long a remote program may take and how many bytes its stdout may have; beyond that it is ended."""

    seconds: float
    most_bytes: int


class Link:
    """Connected while the block runs; `reconnect` makes a new connection after a lost one, then does `reconnected`.

    Raises MissingDependency without fabric, DeviceError if the board cannot be reached or its key is not known.
    """

    def __init__(self, board: Board) -> None:
        self.board = board
        self.reconnected: Callable[[], None] = lambda: None
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
        self.reconnected()

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

    def run(
        self,
        words: Sequence[str],
        say: Callable[[str], None] | None = None,
        limits: Limits | None = None,
        name: str = "",
    ) -> Answer:
        """Runs a remote program, called `name`, to its end; each line of its stderr is given to `say` at once.

        Its stdin stays open as long as it runs. Raises Lost if the connection ends before the program, Killed if a
        signal ends it, DeviceError if it goes beyond its `limits`, those of a program that computes nothing by default.
        """
        who = f"{self.board.name}: {name or words[0]}"
        heard = _Heard(who, say, limits or Limits(SHORT_S, SHORT_BYTES))
        channel = self.started(words)
        try:
            heard.listen(channel)
            code = int(channel.exit_status)
        except (EOFError, OSError) as cause:
            raise Lost(f"{who}: the connection was lost: {cause}") from cause
        finally:
            channel.close()
        if code < 0 and not self.is_up:
            raise Lost(f"{who}: the connection was lost")
        if code < 0 or code == _KILLED:
            raise Killed(f"{who} gave no answer: it was ended by a signal")
        return heard.answer(code)

    def started(self, words: Sequence[str]) -> Any:
        """The channel of a remote program that runs on; its stdin ends when the connection does."""
        with self._answering(f"starting {words[0]}"):
            channel = self._connection.client.get_transport().open_session(timeout=OPENED_S)
            channel.settimeout(OPENED_S)
            channel.exec_command(shlex.join(words))
            return channel

    def greeted(self, words: Sequence[str]) -> tuple[Any, Answer]:
        """The channel of a remote program that runs on once it has said a line, and what it said by then."""
        heard = _Heard(f"{self.board.name}: {words[0]}", None, Limits(SHORT_S, SHORT_BYTES))
        channel = self.started(words)
        heard.listen(channel, one_line=True)
        return channel, heard.answer(channel.exit_status)

    def files(self) -> Any:
        """An SFTPClient of paramiko over the present connection; each of its packets is answered within a minute."""
        if self._files is None:  # fabric's own would connect again by itself, without a keeper
            with self._answering("starting a transfer"):
                self._files = self._connection.client.open_sftp()
                self._files.get_channel().settimeout(OPENED_S)
        return self._files

    @contextlib.contextmanager
    def _answering(self, doing: str) -> Iterator[None]:
        """Raises Lost where the connection is, and where no answer comes: paramiko itself would wait for ever."""
        try:
            with _ended_after(OPENED_S, self._connection.client.close):
                yield
        except Exception as cause:  # paramiko and socket have no common root
            raise Lost(f"{self.board.name}: the connection was lost while {doing}: {cause}") from cause


@contextlib.contextmanager
def _ended_after(seconds: float, end: Callable[[], object]) -> Iterator[None]:
    """Does `end` if the block takes longer; what it raises then is a TimeoutError."""
    is_over = threading.Event()

    def expire() -> None:
        is_over.set()
        end()

    timer = threading.Timer(seconds, expire)
    timer.daemon = True
    timer.start()
    try:
        yield
    except Exception as err:
        if is_over.is_set():
            raise TimeoutError(f"no answer within {seconds:g} s") from err
        raise
    finally:
        timer.cancel()


class _Heard:
    """What a remote program says, which `who` begins with; no more of it than the limits allow."""

    def __init__(self, who: str, say: Callable[[str], None] | None, limits: Limits) -> None:
        self._who, self._say, self._limits = who, say or (lambda line: None), limits
        self._out, self._err, self._line, self._errors = bytearray(), bytearray(), bytearray(), 0

    def answer(self, code: int) -> Answer:
        """All of its stdout, and the last of its stderr."""
        return Answer(code, self._out.decode(errors="replace"), self._err.decode(errors="replace"))

    def listen(self, channel: Any, *, one_line: bool = False) -> None:
        """Until the program has ended, or said a line; raises DeviceError if it does not, or says too much."""
        until_s = time.monotonic() + self._limits.seconds
        while (_has_more(channel) or not channel.closed) and not (one_line and b"\n" in self._out):
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                raise DeviceError(f"{self._who} did not end within {self._limits.seconds:g} s and was ended")
            if _has_more(channel) or not channel.eof_received:
                select.select([channel], [], [], left_s)
                self._take(channel)
            elif channel.status_event.wait(left_s):
                break
        if self._line:
            self._say(self._line.decode(errors="replace"))

    def _take(self, channel: Any) -> None:
        if channel.recv_ready():
            self._out += channel.recv(_AT_ONCE)
        errors = channel.recv_stderr(_AT_ONCE) if channel.recv_stderr_ready() else b""
        self._errors += len(errors)
        self._err = (self._err + errors)[-_KEPT_BYTES:]
        *lines, self._line = (self._line + errors).split(b"\n")
        for line in lines:
            self._say(line.decode(errors="replace"))
        if len(self._out) > self._limits.most_bytes or self._errors > SHORT_BYTES:
            raise DeviceError(f"{self._who} says no end of it and was ended")


def _has_more(channel: Any) -> bool:
    return bool(channel.recv_ready() or channel.recv_stderr_ready())


def _connected(board: Board) -> Any:
    fabric, paramiko = require("fabric", "boards"), require("paramiko", "boards")
    logging.getLogger("paramiko").addHandler(_UNHEARD)
    hops: list[Any] = []
    try:
        hops += _hops(fabric, paramiko, board)
        with _ended_after(len(hops) * OPENED_S, lambda: [hop.client.close() for hop in hops]):
            hops[0].open()
    except Exception as err:  # paramiko, socket and invoke have no common root
        for hop in hops:
            with contextlib.suppress(EOFError, OSError):
                hop.close()
        raise why_not(board, err, {hop.host: hop.port for hop in hops}) from err
    connection = hops[0]
    transport = connection.client.get_transport()
    transport.set_keepalive(_KEEPALIVE_S)  # makes a silent network an error
    if isinstance(transport.sock, socket.socket) and hasattr(socket, "TCP_USER_TIMEOUT"):
        transport.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _SILENCE_MS)
    return connection


def _hops(fabric: Any, paramiko: Any, board: Board) -> list[Any]:
    """The connection to the board, then those to the jump hosts before it, whose own keys count as much."""
    hops = [fabric.Connection(board.host, connect_timeout=_CONNECT_S)]
    while isinstance(hops[-1].gateway, fabric.Connection):
        hops.append(hops[-1].gateway)
    for hop in hops:
        _verify_keys(hop, paramiko.RejectPolicy())
        hop.connect_kwargs = {**hop.connect_kwargs, "banner_timeout": _CONNECT_S, **_identities(hop, paramiko)}
    return hops


def _identities(connection: Any, paramiko: Any) -> dict[str, Any]:
    """Which keys are offered where ~/.ssh/config says IdentitiesOnly: too many are refused before the right one.

    The agent may hold the private part of a key that is named; its public part lies beside, in FILE.pub.
    """
    if str(connection.ssh_config.get("identitiesonly", "")).lower() != "yes":
        return {}
    named = [Path(file).expanduser() for file in connection.ssh_config.get("identityfile", [])]
    beside = [path.with_name(f"{path.name}.pub") for path in named]
    public = {word for path in beside if path.is_file() for word in path.read_text(errors="replace").split()}
    held = [key for key in paramiko.Agent().get_keys() if key.get_base64() in public] if public else []
    return {"allow_agent": False, "look_for_keys": not named, "pkey": next(iter(held), None)}


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
        return DeviceError(f"{board.name}: {changed_key(board, err, ports)}")
    if "not found in known_hosts" in text:
        return DeviceError(
            f"{board.name}: the host key of {board.host} is not known; look at it and accept it: ssh {board.address}"
        )
    return Lost(f"{board.name}: cannot reach {board.host} over ssh: {_reason(board.address, err)}")


def changed_key(board: Board, err: BaseException, ports: dict[str, int]) -> str:
    """What a host key that has changed means, and how to go on where that is right.

    `ports` are those of all hosts on the way: known_hosts names a host with its port unless that is the usual one.
    """
    named = str(getattr(err, "hostname", board.host))
    port = ports.get(named, _USUAL_PORT)
    named = named if port == _USUAL_PORT else f"[{named}]:{port}"
    return (
        f"{board.host} shows another host key than known_hosts has; not connected. Was the board set up anew, or is it"
        " another machine? If the key may be new:"
        f" ssh-keygen -R {shlex.quote(named)}, then look at it: ssh {board.address}"
    )


def _reason(there: str, err: BaseException) -> str:
    """What went wrong on the way to `there`, as ssh takes it."""
    kinds = {kind.__name__ for kind in type(err).__mro__}
    text = " ".join(str(err).split())
    if "PasswordRequiredException" in kinds or any(word in text for word in _ENCRYPTED):
        return "the key has a passphrase; give it to the agent: ssh-add"
    if "AuthenticationException" in kinds or text.startswith("No authentication methods"):
        return f"it knows no key of yours; try: ssh {there}, or send it a key: ssh-copy-id {there}"
    if isinstance(err, socket.gaierror):
        return f"no machine of that name is found; is it spelt as in ~/.ssh/config? try: ssh {there}"
    if isinstance(err, TimeoutError):
        return f"no answer within {_CONNECT_S} s; is the board on and in this network? try: ssh {there}"
    if isinstance(err, (FileNotFoundError, PermissionError)) and err.filename:
        return f"{err.filename}: {str(err.strerror).lower()}; is it the IdentityFile of ~/.ssh/config? try: ssh {there}"
    if isinstance(err, EOFError) or "banner" in text:
        return f"what answers there is no ssh server, or turns you away at once; is the port right? try: ssh {there}"
    if isinstance(err, OSError):
        tried = getattr(err, "errors", None)  # an error for each address of the host
        first = next(iter(tried.values()), err) if isinstance(tried, dict) else err
        said = str(first.strerror or first).lower() if isinstance(first, OSError) else str(first)
        return f"{said}; is the board on, and does its ssh server run? try: ssh {there}"
    return f"{text or type(err).__name__}; try: ssh {there}"
