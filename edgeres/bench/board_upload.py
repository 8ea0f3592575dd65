"""Files to a board and back over SFTP, going on after a lost connection where the last one stopped."""

from __future__ import annotations

import hashlib
import io
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from edgeres.bench.board_link import Answer, Lost
from edgeres.bench.boards import Board
from edgeres.core.errors import DeviceError
from edgeres.core.files import sha256_of, written

log = logging.getLogger(__name__)
RECONNECTS = 3
_CHUNK_BYTES = 1 << 15  # what one SFTP packet holds
WAIT_S = 1.0  # before the first new connection; doubled each time

Step = Callable[[float], None]


class Way(Protocol):
    """What a transfer needs of a session."""

    board: Board

    @property
    def is_up(self) -> bool:
        """Whether the connection stands."""

    def files(self) -> Any:
        """An SFTP client."""

    def run(self, words: list[str]) -> Answer:
        """Runs a program on the board."""

    def reconnect(self) -> None:
        """Makes a new connection."""


@dataclass(frozen=True)
class Payload:
    """Bytes to send: `open` gives them from the beginning."""

    open: Callable[[], BinaryIO]
    size: int
    sha256: str


def payload_of(content: bytes) -> Payload:
    """Bytes in memory."""
    return Payload(lambda: io.BytesIO(content), len(content), hashlib.sha256(content).hexdigest())


def payload_from(path: Path) -> Payload:
    """A file; raises InputError if it cannot be read."""
    return Payload(lambda: path.open("rb"), path.stat().st_size, sha256_of(path))


def send(way: Way, payload: Payload, remote: str, step: Step = lambda amount: None) -> None:
    """Writes `payload` to the file `remote`; `step` is told how many bytes went.

    Raises DeviceError if it cannot be written there, did not arrive whole twice, or if the connection was lost more
    than RECONNECTS times.
    """
    for again in (True, False):
        _patiently(way, lambda: _append(way, payload, remote, step), f"sending {Path(remote).name}")
        if sha256_on(way, remote) == payload.sha256:
            return
        if again:
            log.info("%s: %s did not arrive whole, sent again", way.board.name, Path(remote).name)
            way.run(["rm", "-f", "--", remote])
    raise DeviceError(f"{way.board.name}: {remote} did not arrive whole, twice; is its storage failing?")


def fetch(way: Way, remote: str, out: Path, sha256: str, size: int) -> None:
    """Copies the file `remote` of `size` bytes to `out`; raises DeviceError as `send` does."""
    with written(out) as temporary:
        temporary.touch()
        _patiently(way, lambda: _continue(way, remote, temporary, size), f"fetching {Path(remote).name}")
        if sha256_of(temporary) != sha256:
            raise DeviceError(f"{way.board.name}: {Path(remote).name} did not come back whole; run it again")


def sha256_on(way: Way, remote: str) -> str:
    """Of a file on the board, as the board reads it; empty if it cannot."""
    found: list[str] = []
    _patiently(way, lambda: found.extend(way.run(["sha256sum", "--", remote]).out.split()[:1]), "checking a file")
    return found[0] if found else ""


def _patiently(way: Way, work: Callable[[], None], doing: str, *, lost: int = 0) -> None:
    """Does `work`, again on a new connection when one is lost."""
    try:
        if lost:
            way.reconnect()
        return work()
    except Lost as err:
        if lost == RECONNECTS:
            raise DeviceError(
                f"{way.board.name}: the connection was lost {lost + 1} times while {doing}, the last time: {err}"
            ) from err
        log.info("%s: the connection was lost while %s; connecting again", way.board.name, doing)
    time.sleep(WAIT_S * 2**lost)
    return _patiently(way, work, doing, lost=lost + 1)


def _append(way: Way, payload: Payload, remote: str, step: Step) -> None:
    """Writes what is missing at the end of `remote`."""
    try:
        files = way.files()
        there = _size(files, remote)
        start = there if there <= payload.size else 0
        with payload.open() as source, files.open(remote, "ab" if start else "wb") as target:
            source.seek(start)
            target.set_pipelined(True)
            while chunk := source.read(_CHUNK_BYTES):
                target.write(chunk)
                step(len(chunk))
        if (size := _size(way.files(), remote)) != payload.size:
            raise DeviceError(f"{way.board.name}: {remote} has {size} bytes of {payload.size}; is its disk full?")
    except DeviceError:
        raise
    except Exception as err:  # paramiko, SFTP and socket have no common root
        raise _failure(way, f"cannot write {remote}; is its disk full?", err) from err


def _continue(way: Way, remote: str, local: Path, size: int) -> None:
    """Reads what is missing at the end of `local`, which is to have `size` bytes."""
    try:
        with way.files().open(remote, "rb") as source, local.open("ab") as target:
            source.seek(target.tell())
            source.prefetch(size)
            while chunk := source.read(min(_CHUNK_BYTES, size - target.tell())):
                target.write(chunk)
    except Exception as err:
        raise _failure(way, f"cannot read {remote}", err) from err


def _size(files: Any, remote: str) -> int:
    try:
        return int(files.stat(remote).st_size)
    except FileNotFoundError:
        return 0


def _failure(way: Way, what: str, err: Exception) -> DeviceError:
    """A lost connection, or what the board's file system has against it."""
    name, text = type(err).__name__, " ".join(str(err).split())
    if isinstance(err, EOFError) or name == "SSHException" or text == "Socket is closed" or not way.is_up:
        return Lost(f"{way.board.name}: the connection was lost: {text or name}")
    return DeviceError(f"{way.board.name}: {what} ({text or name})")
