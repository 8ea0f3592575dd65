"""An interleaved session: each model lives in its own process, exactly one of them runs at a time.

Round after round every model gets one turn, in an order drawn anew each round, so that a slow minute of the
machine falls on all of them alike and no model always follows the same neighbour. The processes are separate
because two runtimes in one fight over threads.

It may go on until every median is known well enough, or time is up:

    precision of a median = wider side of its 95 % interval / median

After the first rounds the interval is looked at again whenever a quarter more has been measured, not after every round:
a rule that stops at the first narrow interval stops at those that are narrow by luck, the more often it looks. It looks
at widths only, never at speeds.

Source: Kalibera & Jones 2013, "Rigorous benchmarking in reasonable time", doi:10.1145/2464157.2464160; Chow & Robbins
1965, doi:10.1214/aoms/1177700156 (intervals of fixed width).
"""

from __future__ import annotations

import itertools
import math
import os
import random
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError
from typing_extensions import Self

import edgeres
from edgeres.bench.measure import Turn
from edgeres.bench.watch import Watch
from edgeres.bench.worker import Failure, Job, Ready, Samples
from edgeres.core.config import Record
from edgeres.core.errors import StageError
from edgeres.core.progress import track
from edgeres.core.statistics import interval_of

R = TypeVar("R", bound=Record)

_WORKER = "edgeres.bench.worker"
_LEAVE_TIMEOUT_S = 10.0
_GROWTH = 1.25


@dataclass
class Measured:
    """What one worker said: the samples of every round in the order they were taken."""

    job: Job
    ready: Ready
    rounds: list[list[float]] = field(default_factory=list)
    parts_ms: list[tuple[float, ...]] = field(default_factory=list)

    def add(self, samples: Samples) -> None:
        """One more round."""
        self.rounds.append(samples.samples_ms)
        self.parts_ms += samples.parts_ms

    @property
    def samples_ms(self) -> tuple[float, ...]:
        """All rounds in one."""
        return tuple(sample for samples in self.rounds for sample in samples)


Enough = Callable[[Sequence[Measured]], bool]


def measure_interleaved(
    jobs: Sequence[Job], turn: Turn, *, rounds: int, seed: int, enough: Enough | None = None, watch: Watch | None = None
) -> tuple[str, list[Measured]]:
    """The session's id and what each job measured.

    It ends after `rounds` rounds; with `enough`, which is asked from then on, when that says so. `watch` looks at the
    machine between rounds. Raises StageError, naming the model and the cause, if a worker cannot load it or dies.
    """
    watch = watch or Watch()
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(job)) for job in track(jobs, "load and warm up", len(jobs))]
        measured = [Measured(worker.job, worker.ready) for worker in workers]
        watch.start([worker.pid for worker in workers])
        for number, order in track(enumerate(orders(len(jobs), seed), 1), "bench", rounds):
            for index in order:
                least = turn.least if jobs[index].least is None else jobs[index].least
                measured[index].add(workers[index].measure(turn.model_copy(update={"least": least})))
            watch.look()
            if number >= rounds and (enough is None or enough(measured)):
                break
    return uuid.uuid4().hex[:12], measured


def precision_of(measured: Measured) -> float:
    """Wider side of the 95 % interval of the median, as a fraction of it."""
    rounds = [len(samples) for samples in measured.rounds]
    return interval_of(measured.samples_ms, rounds, q=50).precision


def enough_for(precision: float, *, models: int, limit_s: float) -> Enough:
    """Says of the rounds so far whether the first `models` have the precision, or have been timed for `limit_s`."""
    next_look = 0

    def enough(measured: Sequence[Measured]) -> bool:
        nonlocal next_look
        watched, rounds = measured[:models], len(measured[0].rounds)
        if max(sum(one.samples_ms) for one in watched) >= 1000 * limit_s:
            return True
        if rounds < next_look:
            return False
        next_look = math.ceil(_GROWTH * rounds)
        return all(precision_of(one) <= precision for one in watched)

    return enough


def orders(models: int, seed: int) -> Iterator[list[int]]:
    """Who comes when, round after round without end: every model once, shuffled anew."""
    generator = random.Random(seed)
    return (generator.sample(range(models), models) for _ in itertools.count())


class Worker:
    """One child process with a loaded, warm model; leaves when the `with` block ends."""

    ready: Ready

    def __init__(self, job: Job) -> None:
        self.job = job

    def __enter__(self) -> Self:
        self._stderr = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        self._process = subprocess.Popen(
            [sys.executable, "-m", _WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            encoding="utf-8",
            env=_quiet_environment(self.job.threads),
        )
        try:
            self.ready = self._ask(self.job, Ready)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        with self._process:
            if exc and exc[0] is not None:
                self._process.terminate()
            assert self._process.stdin is not None
            with suppress(OSError):  # the reader died with something still in the pipe
                self._process.stdin.close()
            try:
                self._process.wait(_LEAVE_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._stderr.close()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def measure(self, turn: Turn) -> Samples:
        """Milliseconds of each call of one turn."""
        return self._ask(turn, Samples)

    def _ask(self, question: Record, kind: type[R]) -> R:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = ""
        with suppress(OSError):
            self._process.stdin.write(question.model_dump_json() + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        if not line:
            raise StageError(f"bench: {self.job.path} was lost: {self._last_words()}")
        try:
            return kind.model_validate_json(line)
        except ValidationError as err:
            said = f"its process answered {line.strip()[:100]!r}"
            with suppress(ValidationError):
                said = Failure.model_validate_json(line).error
            raise StageError(f"bench: {self.job.path}: {said}") from err

    def _last_words(self) -> str:
        code = self._process.wait()
        self._stderr.seek(0)
        lines = self._stderr.read().strip().splitlines() or ["it said nothing"]
        how = f"signal {-code}, killed from outside or out of memory" if code < 0 else f"exit {code}"
        return f"its process ended ({how}): {lines[-1].strip()}"


def _quiet_environment(threads: int) -> dict[str, str]:
    """The environment of a worker: its threads sleep while another one measures."""
    package_root = str(Path(edgeres.__file__).parents[1])
    search = [package_root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "OMP_WAIT_POLICY": "PASSIVE",
        "KMP_BLOCKTIME": "0",
        "OMP_NUM_THREADS": str(threads),
        "PYTHONPATH": os.pathsep.join(search),
    }
