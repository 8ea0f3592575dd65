"""The logits of a data set's images, or what else it gives for them, computed by an engine on this board.

TensorRT may crash the process that runs it, so a second agent does the work and a crash becomes one line.
"""

import contextlib
import hashlib
import importlib
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

from edgeres.runtime.cuda import CudaError
from edgeres.runtime.engine import EngineError, LoadedEngine, UnfitEngine

from . import images, process
from .process import Refused

_HERE = "--here"
_RUN = "import sys; sys.path[0] = sys.argv.pop(1); from {} import main; sys.exit(main(sys.argv[1:]))"


class Job(NamedTuple):
    """Engine, folder of images, images at a time, and the file the logits go to."""

    engine: "str"
    images: "str"
    batch: "int"
    logits: "str"


def evaluate_apart(job: "Job", timeout_s: "float") -> "dict[str, object]":
    """`evaluate` in a process of its own; raises Refused if that crashes, hangs or refuses."""
    done = process.run(_again(job), timeout_s)
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
    """Writes float32 (N, K), little-endian: of several outputs (or of maps) all numbers of an image side by side."""
    pictures, trt = images.images_in(job.images), _binding()
    try:
        with contextlib.closing(LoadedEngine(trt, _plan_of(job.engine))) as engine:
            _check(engine, pictures)
            engine.bind(job.batch)
            digest = _write_logits(engine, pictures, job)
            outputs = [(port.name, port.size_bytes(1) // images.FLOAT_BYTES) for port in engine.outputs]
    except EngineError as err:
        raise Refused(f"TensorRT {trt.__version__} of this board {err}") from err
    except UnfitEngine as err:
        raise Refused(f"the engine {err}") from err
    except CudaError as err:
        raise Refused(str(err)) from err
    told = {"n": pictures.n, "outputs": outputs, "classes": sum(size for _, size in outputs)}
    return {**told, "tensorrt": str(trt.__version__), "logits_sha256": digest}


def _binding() -> "Any":
    try:
        return importlib.import_module("tensorrt")
    except (ImportError, OSError) as err:
        reason = " ".join(str(err).split())
        raise Refused(f"python3 of this board has no tensorrt ({reason}): sudo apt install python3-libnvinfer") from err


def _plan_of(path: "str") -> "bytes":
    try:
        return Path(path).read_bytes()
    except OSError as err:
        raise Refused(f"cannot read {path}: {err.strerror}") from err


def _check(engine: "LoadedEngine", pictures: "images.Images") -> "None":
    """Raises UnfitEngine unless it takes such images, and takes and gives float32."""
    if engine.input.shape != pictures.shape:
        raise UnfitEngine(f"takes images of {engine.input.shape}, these are {pictures.shape}")
    for port in (engine.input, *engine.outputs):
        if port.kind != "FLOAT":
            raise UnfitEngine(f"has {port.name} in {port.kind}, not in float32")


def _write_logits(engine: "LoadedEngine", pictures: "images.Images", job: "Job") -> "str":
    """Returns their sha256."""
    digest, rows = hashlib.sha256(), [port.size_bytes(1) for port in engine.outputs]
    try:
        with Path(job.logits).open("wb") as file:
            for batch, count in images.batches(pictures, job.batch):
                engine.buffers[0].host[:] = batch
                engine.run()
                held = list(zip((bytes(one.host) for one in engine.buffers[1:]), rows))  # noqa: B905 - Python 3.6
                logits = b"".join(one[row * at : row * (at + 1)] for at in range(count) for one, row in held)
                digest.update(logits)
                file.write(logits)
    except OSError as err:
        raise Refused(f"cannot write {job.logits}: {err.strerror}") from err
    return digest.hexdigest()


def _again(job: "Job") -> "list[str]":
    """The command that starts this agent again, from its one file or from the package."""
    package = __name__.rpartition(".")[0]
    home = Path(__file__).resolve().parents[package.count(".") + 1]
    arguments = ["--engine", job.engine, "--images", job.images, "--batch", str(job.batch), "--logits", job.logits]
    return [sys.executable, "-c", _RUN.format(package + ".__main__"), str(home), "eval", _HERE, *arguments]
