"""A run on a board: a folder of its own there, the agent copied into it, everything removed at the end.

The folder is `edgeres-run-XXXXXXXX` below the board's TMPDIR or /tmp. It goes at the end of the session; after a lost
connection the agent removes it if it was at work, otherwise the keeper that holds it does after GRACE_S; what a board
without power left behind is removed by the next session. Files are sent by `board_upload` and verified by hash.

Tested against OpenSSH on the same machine and programs that imitate JetPack's; never on a real board so far.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from edgeres.bench.board_answers import BoardFound, JobDone, Refusal, line_of
from edgeres.bench.board_link import Answer, Killed, Limits, Link, Lost
from edgeres.bench.board_upload import Step, fetch, send
from edgeres.bench.boards import Board, agent_bytes
from edgeres.core.config import Record, first_problem
from edgeres.core.errors import DeviceError
from edgeres.core.progress import bar, text_from

A = TypeVar("A", bound=BoardFound | JobDone)
R = TypeVar("R", bound=Record)
log = logging.getLogger(__name__)
AGENT_S = 600.0  # what a job takes besides what it was asked to take: starting, asking programs, putting back
GRACE_S = 120.0  # for a laptop whose network was gone for a moment
_AGENT, _KEEPER = "agent.pyz", "keeper.py"
_KEEPER_SOURCE = Path(__file__).with_name("board_keeper.py")
_RUN_FOLDER = re.compile(r"/\S*/edgeres-run-\w+")
_MARGIN_BYTES = 8 << 20  # left free on the board's disk, which is often the system's
_ENDING_S = 10.0
_REFUSED = 4  # exit code of an agent that says why
_BUSY, _ASKED_EVERY_S = "another edgeres run", 5.0  # says an agent that does not get the board


class Session:
    """An open connection with a run folder on the board; each job waits up to `patience_s` for another run there."""

    def __init__(self, link: Link, folder: str, patience_s: float = 0.0) -> None:
        self.link, self.folder, self.board, self.patience_s = link, folder, link.board, patience_s
        self._keeper: Any = None
        link.reconnected = self.hold

    @cached_property
    def found(self) -> BoardFound:
        """What board it is, as the agent's `detect` says."""
        return self.agent(BoardFound)

    @cached_property
    def system(self) -> str:
        """Such as "linux aarch64"."""
        return line_of(self.link.run(["uname", "-sm"]).out.lower())

    def upload(self, source: Path, name: str) -> str:
        """Copies a file into the run folder; returns its path there. Raises DeviceError if it cannot be."""
        with bar(f"{self.board.name}: sending {source.name}") as shown, source.open("rb") as file:
            shown.expect(source.stat().st_size)
            send(self.link, file, f"{self.folder}/{name}", shown.advance)
        return f"{self.folder}/{name}"

    def write(self, content: bytes, name: str, step: Step = lambda amount: None) -> str:
        """Writes a file into the run folder; returns its path there. Raises DeviceError if it cannot be."""
        send(self.link, io.BytesIO(content), f"{self.folder}/{name}", step)
        return f"{self.folder}/{name}"

    def download(self, name: str, out: Path, sha256: str, size: int) -> None:
        """Copies a file of the run folder to `out`; raises DeviceError if it is not of `size` and `sha256`."""
        fetch(self.link, f"{self.folder}/{name}", out, sha256, size)

    def read(self, name: str, sha256: str, size: int) -> bytes:
        """The bytes of a file of the run folder; raises DeviceError as `download` does."""
        with tempfile.TemporaryDirectory(prefix="edgeres-") as folder:
            self.download(name, Path(folder) / "file", sha256, size)
            return (Path(folder) / "file").read_bytes()

    def remove(self, *names: str) -> None:
        """Removes files and folders of the run."""
        self.link.run(["rm", "-rf", "--", *(f"{self.folder}/{name}" for name in names)])

    def need(self, amount: int, what: str) -> None:
        """Raises DeviceError unless `amount` bytes can be written on the board."""
        *_, said = ["", *self.link.run(["df", "--output=avail", "-B1", "--", self.folder]).out.split()]
        free = int(said) if said.isdigit() else math.inf
        if free < amount + _MARGIN_BYTES:
            raise DeviceError(
                f"{self.board.name}: {what} needs {_mb(amount + _MARGIN_BYTES)} in {Path(self.folder).parent},"
                f" {_mb(free)} are free; make room there, or name another place in the board's TMPDIR"
            )

    def agent(self, kind: type[A], *words: str, takes_s: float = 0.0) -> A:
        """What the agent answers to the job of `kind`; `takes_s` is how long what was asked takes at most.

        Raises DeviceError with the agent's own line if it cannot be done, and for an answer that is none.
        """
        job = f"the job {kind.job!r}"
        try:
            done = self._patiently(kind, *words, takes_s=takes_s)
        except Lost as err:
            raise DeviceError(
                f"{self.board.name}: the connection was lost during {job}; the board ends it and"
                " removes its files by itself; run it again"
            ) from err
        except Killed as err:
            raise DeviceError(
                f"{self.board.name}: the agent was killed during {job} (was the board out of memory?){self._put_back()}"
            ) from err
        return self._understood(kind, done)

    def claim(self) -> list[str]:
        """Puts back what a killed run had set on the board; says what.

        Raises DeviceError if another run uses the board: asked before anything large is sent. The jobs that follow
        hold the board themselves.
        """
        return list(self.agent(JobDone).restored)

    def hold(self) -> None:
        """Puts a keeper on the run folder, which takes it over from an earlier one; DeviceError if it is gone."""
        channel, said = self.link.greeted(["python3", f"{self.folder}/{_KEEPER}", self.folder, str(GRACE_S)])
        if said.out.strip() != "holding":
            if self.link.run(["test", "-d", self.folder]).code:
                raise DeviceError(f"{self.board.name}: the connection came back after the board had removed the run")
            heard = (said.err.strip().splitlines() or said.out.strip().splitlines() or ["nothing"])[-1]
            why = f"the run's folder cannot be kept there, python3 said: {line_of(heard)}"
            raise DeviceError(f"{self.board.name}: {why}; {self._asked_python()}")
        self._keeper = channel

    def end(self) -> None:
        """Removes the run folder and waits for its keeper to end; a lost connection leaves the folder to that."""
        with contextlib.suppress(DeviceError, EOFError, OSError):
            self.link.run(["rm", "-rf", "--", self.folder])
            if self._keeper is not None:
                self._keeper.shutdown_write()
                self._keeper.status_event.wait(_ENDING_S)

    def _put_back(self) -> str:
        """What an agent that was killed had set on the board and another puts back now, each after a "; "."""
        try:
            done = self._understood(JobDone, self._job(JobDone))
        except DeviceError as err:
            return f"; whether it had set clocks or power mode is unknown: {err}"
        return "".join(f"; {line}" for line in done.restored)

    def _patiently(self, kind: type[A], *words: str, takes_s: float) -> Answer:
        until_s, is_told = time.monotonic() + self.patience_s, False
        while (done := self._job(kind, *words, takes_s=takes_s)).code == _REFUSED and _BUSY in done.out:
            if time.monotonic() >= until_s:
                break
            if not is_told:
                waits = f"waiting for up to {text_from(self.patience_s)}"
                log.info("%s: %s is using this board; %s", self.board.name, _BUSY, waits)
            is_told = True
            time.sleep(_ASKED_EVERY_S)
        return done

    def _job(self, kind: type[A], *words: str, takes_s: float = 0.0) -> Answer:
        agent = ["python3", f"{self.folder}/{_AGENT}", "--leash"]
        limits = Limits(AGENT_S + takes_s, kind.most_bytes)
        return self.link.run([*agent, kind.job, *words], self._say, limits, f"the job {kind.job!r}")

    def _understood(self, kind: type[A], done: Answer) -> A:
        """The answer of `kind`; raises DeviceError with the agent's own line for a job it did not do."""
        if done.code == _REFUSED:
            raise DeviceError(f"{self.board.name}: {self._record(Refusal, kind.job, done).error}")
        return self._record(kind, kind.job, done)

    def _record(self, kind: type[R], job: str, done: Answer) -> R:
        """The record in the last line of stdout; raises DeviceError for what is none."""
        try:
            return kind.model_validate_json((done.out.strip().splitlines() or [""])[-1])
        except ValidationError as err:
            why = f"the answer to the job {job!r} is not understood: {line_of(first_problem(err, kind))}"
            why = f"{why}; {self._asked_python()}"
            if done.code:
                said = (done.err.strip().splitlines() or ["it said nothing"])[-1]
                why = f"the agent ended with exit {done.code}: {line_of(said)}"
            raise DeviceError(f"{self.board.name}: {why}") from err

    def _asked_python(self) -> str:
        return f"is python3 there Python's own? try: ssh {self.board.address} python3 --version"

    def _say(self, line: str) -> None:
        prefix, _, text = line.partition("agent: ")
        if text and not prefix:
            log.info("%s: %s", self.board.name, text)


def _mb(size_bytes: float) -> str:
    return f"{size_bytes / 1e6:.1f} MB"


@contextmanager
def session(board: Board, patience_s: float = 0.0) -> Iterator[Session]:
    """Connects, makes the run folder, copies the agent; removes the folder at the end.

    Each job waits up to `patience_s` for another run there to end.

    Raises MissingDependency without fabric, DeviceError if the board cannot be reached or its key is not known.
    """
    with Link(board) as link:
        answer = link.run(["mktemp", "-d", "-t", "edgeres-run-XXXXXXXX"])
        folder = answer.out.strip()
        if answer.code or not _RUN_FOLDER.fullmatch(folder):
            said = line_of(answer.err) or line_of(folder)
            raise DeviceError(f"{board.name}: cannot make a folder for the run: {said}")
        opened = Session(link, folder, patience_s)
        try:
            opened.write(_KEEPER_SOURCE.read_bytes(), _KEEPER)
            opened.hold()
            opened.write(agent_bytes(), _AGENT)
            yield opened
        finally:
            opened.end()
