"""One model in one process: `python -m edgeres.bench.worker`, driven over stdin and stdout by `session`.

    in   Job                 load the model and warm it up
    out  Ready | Failure
    in   Turn                measure, as often as asked
    out  Samples
    (end of stdin)           leave

One JSON object a line. What a library prints goes to stderr; the stdout that is read is out of its hands.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

import numpy as np

from edgeres.bench.endtoend import Chain
from edgeres.bench.measure import Steps, Turn, take_turn, warm_up
from edgeres.core.artifacts import Model, model_from
from edgeres.core.config import Record
from edgeres.core.errors import EdgeresError
from edgeres.runtime import runner_for
from edgeres.runtime.runner import Images, Runner, RunnerOptions

_DECIMALS = 6  # nanoseconds, the resolution of the clock


class Job(Record):
    """What to load and how to run it.

    `least` stands in for the turn's; with `files` each call takes one of these images from the file to its class.
    """

    path: Path
    batch: int
    threads: int
    seed: int = 0
    least: int | None = None
    files: tuple[Path, ...] = ()


class Ready(Record):
    """The model is loaded and warm."""

    runtime: str
    warmup: int
    stable: bool


class Failure(Record):
    """The model could not be loaded; `error` is one line for the user."""

    error: str


class Samples(Record):
    """Milliseconds of each call of one turn, and of its parts (`endtoend.PARTS`) where it takes files."""

    samples_ms: list[float]
    parts_ms: tuple[tuple[float, ...], ...] = ()


def main() -> int:
    """Serves one job; returns the exit code."""
    replies = _private_stdout()
    job = Job.model_validate_json(sys.stdin.readline())
    try:
        with runner_for(model_from(job.path), RunnerOptions(threads=job.threads, literal_qdq=False)) as runner:
            _serve(runner, job, replies)
    except EdgeresError as err:
        _send(Failure(error=str(err)), replies)
        return err.exit_code
    return 0


def images_for(model: Model, batch: int, seed: int) -> Images:
    """Standard-normal float32 (batch, C, H, W): what normalised images look like to the arithmetic."""
    shape = (batch, *model.spec.input_shape)
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def _serve(runner: Runner, job: Job, replies: TextIO) -> None:
    model = model_from(job.path)
    chain = Chain(runner, model.spec, job.files) if job.files else None
    if chain is None:
        runner.load(images_for(model, job.batch, job.seed))
    timed: Steps = chain or runner
    calls, is_stable = warm_up(timed, time.perf_counter)
    gc.disable()
    gc.collect()
    gc.freeze()  # torch's objects, which are many, are not looked at again
    _send(Ready(runtime=timed.name, warmup=calls, stable=is_stable), replies)
    for line in sys.stdin:
        samples = take_turn(timed, Turn.model_validate_json(line), time.perf_counter)
        parts = tuple(_rounded(parts) for parts in chain.take(len(samples))) if chain else ()
        gc.collect()  # before the answer: from then on another worker is timed
        _send(Samples(samples_ms=list(_rounded(samples)), parts_ms=parts), replies)


def _rounded(values_ms: Iterable[float]) -> tuple[float, ...]:
    return tuple(round(value, _DECIMALS) for value in values_ms)


def _private_stdout() -> TextIO:
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return replies


def _send(reply: Record, replies: TextIO) -> None:
    replies.write(reply.model_dump_json() + "\n")
    replies.flush()


if __name__ == "__main__":
    sys.exit(main())
