"""The logits of a data set's images, computed by an engine on this board.

TensorRT may crash the process that runs it, so a second agent does the work and a crash becomes one line.
"""

import contextlib
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

from . import images, process
from .engine import opened
from .process import Refused

_HERE = "--here"
_RUN = "import sys; sys.path[0] = sys.argv.pop(1); from {} import main; sys.exit(main(sys.argv[1:]))"


class Job(NamedTuple):
    """Engine, folder of images, images at a time, and the file the logits go to."""

    engine: "str"
    images: "str"
    batch: "int"
    logits: "str"

    @property
    def unfinished(self) -> "Path":
        """Where the logits are until they are whole."""
        return Path(self.logits + ".part")


def evaluate_apart(job: "Job", timeout_s: "float") -> "dict[str, object]":
    """`evaluate` in a process of its own; raises Refused if that crashes, hangs or refuses."""
    try:
        done = process.run(_again(job), timeout_s)
    finally:
        _remove(job.unfinished)
    if done.timed_out:
        raise Refused(f"the evaluation hung: it was ended after {timeout_s:.0f} s")
    if done.code < 0:
        raise Refused(f"the evaluation crashed inside TensorRT or CUDA with {process.ending(done.code)}")
    try:
        answer = json.loads(done.lines[-1][1])  # type: dict[str, Any]
    except (IndexError, ValueError) as err:
        last = done.lines[-1][1] if done.lines else "it said nothing"
        raise Refused(f"the evaluation failed with exit {done.code}: {last}") from err
    if "error" in answer:
        raise Refused(str(answer["error"]))
    return answer


def evaluate(job: "Job") -> "dict[str, object]":
    """Writes float32 (N, K), little-endian."""
    pictures = images.images_in(job.images)
    with opened(job.engine, job.batch) as engine:
        if engine.image_shape != pictures.shape:
            raise Refused(f"the engine takes images of {engine.image_shape}, these are {pictures.shape}")
        digest = _write_logits(engine, pictures, job)
        return {"n": pictures.n, "classes": engine.classes, "tensorrt": engine.version, "logits_sha256": digest}


def _write_logits(engine: "Any", pictures: "images.Images", job: "Job") -> "str":
    """Under a temporary name first; returns the sha256."""
    digest, row = hashlib.sha256(), images.FLOAT_BYTES * engine.classes
    try:
        with job.unfinished.open("wb") as file:
            for batch, count in images.batches(pictures, job.batch):
                logits = engine.infer(batch)[: count * row]
                digest.update(logits)
                file.write(logits)
        os.replace(str(job.unfinished), job.logits)
    except OSError as err:
        raise Refused(f"cannot write {job.logits}: {err.strerror}") from err
    finally:
        _remove(job.unfinished)
    return digest.hexdigest()


def _remove(path: "Path") -> "None":
    with contextlib.suppress(FileNotFoundError):
        path.unlink()


def _again(job: "Job") -> "list[str]":
    """The command that starts this agent again, from its one file or from the package."""
    package = __name__.rpartition(".")[0]
    home = Path(__file__).resolve().parents[package.count(".") + 1]
    arguments = ["--engine", job.engine, "--images", job.images, "--batch", str(job.batch), "--logits", job.logits]
    return [sys.executable, "-c", _RUN.format(package + ".__main__"), str(home), "eval", _HERE, *arguments]
