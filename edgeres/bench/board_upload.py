"""Files to a board and back over SFTP, going on after a lost connection where the last one stopped."""

from __future__ import annotations

import hashlib
import io
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from edgeres.bench.board_link import SHORT_BYTES, SHORT_S, Limits, Link, Lost
from edgeres.core.errors import DeviceError
from edgeres.core.files import sha256_of, written

log = logging.getLogger(__name__)
RECONNECTS = 3
_CHUNK_BYTES = 1 << 15  # what one SFTP packet holds
_HASHED_BYTES = 1 << 20
_SLOWEST_BYTES_S = 1e6  # of a board's storage
WAIT_S = 1.0  # before the first new connection; doubled each time

Step = Callable[[float], None]


def send(link: Link, source: BinaryIO, remote: str, step: Step = lambda amount: None) -> None:
    """Writes all of `source` to the file `remote`; `step` is told how many bytes went.

    Raises DeviceError if it cannot be written there, did not arrive whole twice, or if the connection was lost more
    than RECONNECTS times.
    """
    digest = hashlib.sha256()
    while chunk := source.read(_HASHED_BYTES):
        digest.update(chunk)
    for again in (True, False):
        _patiently(link, lambda: _append(link, source, remote, step), f"sending {Path(remote).name}")
        if sha256_on(link, remote, source.tell()) == digest.hexdigest():
            return
        if again:
            log.info("%s: %s did not arrive whole, sent again", link.board.name, Path(remote).name)
            link.run(["rm", "-f", "--", remote])
    raise DeviceError(f"{link.board.name}: {remote} did not arrive whole, twice; is its storage failing?")


def fetch(link: Link, remote: str, out: Path, sha256: str, size: int) -> None:
    """Copies the file `remote` of `size` bytes to `out`; raises DeviceError as `send` does."""
    with written(out) as temporary:
        temporary.touch()
        _patiently(link, lambda: _continue(link, remote, temporary, size), f"fetching {Path(remote).name}")
        if sha256_of(temporary) != sha256:
            raise DeviceError(f"{link.board.name}: {Path(remote).name} did not come back whole; run it again")


def sha256_on(link: Link, remote: str, size: int) -> str:
    """Of a file of `size` bytes on the board, as the board reads it; empty if it cannot."""
    found: list[str] = []
    limits = Limits(SHORT_S + size / _SLOWEST_BYTES_S, SHORT_BYTES)
    words = ["sha256sum", "--", remote]
    _patiently(link, lambda: found.extend(link.run(words, limits=limits).out.split()[:1]), "checking a file")
    return found[0] if found else ""


def _patiently(link: Link, work: Callable[[], None], doing: str, *, lost: int = 0) -> None:
    """Does `work`, again on a new connection when one is lost."""
    try:
        if lost:
            link.reconnect()
        return work()
    except Lost as err:
        if lost == RECONNECTS:
            raise DeviceError(
                f"{link.board.name}: the connection was lost {lost + 1} times while {doing}, the last time: {err}"
            ) from err
        log.info("%s: the connection was lost while %s; connecting again", link.board.name, doing)
    time.sleep(WAIT_S * 2**lost)
    return _patiently(link, work, doing, lost=lost + 1)


def _append(link: Link, source: BinaryIO, remote: str, step: Step) -> None:
    """Writes what is missing at the end of `remote`."""
    try:
        files, whole = link.files(), source.seek(0, io.SEEK_END)
        there = _size(files, remote)
        source.seek(there if there <= whole else 0)
        with files.open(remote, "ab" if source.tell() else "wb") as target:
            target.set_pipelined(True)
            while chunk := source.read(_CHUNK_BYTES):
                target.write(chunk)
                step(len(chunk))
        if (size := _size(link.files(), remote)) != whole:
            raise DeviceError(f"{link.board.name}: {remote} has {size} bytes of {whole}; is its disk full?")
    except DeviceError:
        raise
    except Exception as err:  # paramiko, SFTP and socket have no common root
        raise _failure(link, f"cannot write {remote}; is its disk full?", err) from err


def _continue(link: Link, remote: str, local: Path, size: int) -> None:
    """Reads what is missing at the end of `local`, which is to have `size` bytes."""
    try:
        with link.files().open(remote, "rb") as source, local.open("ab") as target:
            source.seek(target.tell())
            source.prefetch(size)
            while chunk := source.read(min(_CHUNK_BYTES, size - target.tell())):
                target.write(chunk)
    except Exception as err:
        raise _failure(link, f"cannot read {remote}", err) from err


def _size(files: Any, remote: str) -> int:
    try:
        return int(files.stat(remote).st_size)
    except FileNotFoundError:
        return 0


def _failure(link: Link, what: str, err: Exception) -> DeviceError:
    """A lost connection, or what the board's file system has against it."""
    name, text = type(err).__name__, " ".join(str(err).split())
    if (
        isinstance(err, (EOFError, TimeoutError))
        or name == "SSHException"
        or text == "Socket is closed"
        or not link.is_up
    ):
        return Lost(f"{link.board.name}: the connection was lost: {text or name}")
    return DeviceError(f"{link.board.name}: {what} ({text or name})")
