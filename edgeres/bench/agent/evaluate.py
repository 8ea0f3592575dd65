"""The logits of a data set's images, or what else it gives for them, computed by an engine on this board.

TensorRT may crash the process that runs it, so a second agent does the work and a crash becomes one line.

The images lie packed by the other computer, raw bytes in parts, and how to make float32 of them:

    index.json      {"shape": [C, H, W], "n": N, "dtype": "uint8", "tables": [[256 floats] * C],
                     "parts": [{"name", "n"}, ...]}
    part-00000.bin  raw uint8 pixels, (n, C, H, W)

Pixels go through `tables`: the normalised value of each byte, per channel, as the other computer computed it, so that
the network's input here is bit for bit the one it had there. Labels are not here.
"""

import contextlib
import hashlib
import importlib
import json
import struct
import sys
from pathlib import Path
from typing import Any, Iterator, NamedTuple  # noqa: UP035 - Python 3.6

from edgeres.runtime.cuda import CudaError
from edgeres.runtime.engine import EngineError, LoadedEngine, UnfitEngine

from . import process
from .process import Refused

_HERE = "--here"
_RUN = "import sys; sys.path[0] = sys.argv.pop(1); from {} import main; sys.exit(main(sys.argv[1:]))"
FLOAT_BYTES = 4
_LEVELS = 256


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
    pictures, trt = images_in(job.images), _binding()
    try:
        with contextlib.closing(LoadedEngine(trt, _plan_of(job.engine))) as engine:
            _check(engine, pictures)
            engine.bind(job.batch)
            digest = _write_logits(engine, pictures, job)
            outputs = [(port.name, port.size_bytes(1) // FLOAT_BYTES) for port in engine.outputs]
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


def _check(engine: "LoadedEngine", pictures: "Images") -> "None":
    """Raises UnfitEngine unless it takes such images, and takes and gives float32."""
    if engine.input.shape != pictures.shape:
        raise UnfitEngine(f"takes images of {engine.input.shape}, these are {pictures.shape}")
    for port in (engine.input, *engine.outputs):
        if port.kind != "FLOAT":
            raise UnfitEngine(f"has {port.name} in {port.kind}, not in float32")


def _write_logits(engine: "LoadedEngine", pictures: "Images", job: "Job") -> "str":
    """Returns their sha256."""
    digest, rows = hashlib.sha256(), [port.size_bytes(1) for port in engine.outputs]
    try:
        with Path(job.logits).open("wb") as file:
            for batch, count in batches(pictures, job.batch):
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


class Part(NamedTuple):
    """One file of `n` images."""

    path: "Path"
    n: "int"


class Images(NamedTuple):
    """N images of `shape` (C, H, W). `planes`: per channel four tables of 256, one for each byte of a float32."""

    shape: "tuple[int, int, int]"
    n: "int"
    planes: "list[list[bytes]]"
    parts: "list[Part]"

    @property
    def image_bytes(self) -> "int":
        """Of one image as it is stored."""
        channels, height, width = self.shape
        return channels * height * width


def images_in(folder: "str") -> "Images":
    """What `folder` holds; raises Refused with one line if its index is damaged, or its parts are not as it says."""
    path = Path(folder) / "index.json"
    try:
        fields = json.loads(path.read_text())
        if fields["dtype"] != "uint8":
            raise ValueError(f"dtype {fields['dtype']!r} is not uint8")
        channels, height, width = (int(length) for length in fields["shape"])
        parts = [Part(path.with_name(row["name"]), int(row["n"])) for row in fields["parts"]]
        found = Images((channels, height, width), int(fields["n"]), _planes_from(fields["tables"], channels), parts)
        is_whole = all(part.path.stat().st_size == part.n * found.image_bytes for part in parts)
    except (OSError, ValueError, TypeError, KeyError, struct.error) as err:
        raise Refused(f"damaged index of images {path}: {type(err).__name__}: {err}") from err
    if not is_whole or found.n < 1 or found.n != sum(part.n for part in parts) or min(found.shape) < 1:
        raise Refused(f"damaged index of images {path}: {found.n} images of {found.shape}, parts {fields['parts']!r}")
    return found


def batches(images: "Images", size: "int") -> "Iterator[tuple[bytes, int]]":
    """(float32 (size, C, H, W), how many of them are images): the last batch is filled up with its last image."""
    for raw in _raw(images, size):
        count = len(raw) // images.image_bytes
        full = raw + raw[-images.image_bytes :] * (size - count)
        yield _floats(full, images), count


def _raw(images: "Images", size: "int") -> "Iterator[bytes]":
    """`size` images at a time, across the borders of parts; fewer at the end."""
    wanted, kept = size * images.image_bytes, b""
    for part in images.parts:
        with part.path.open("rb") as file:
            for chunk in iter(lambda: file.read(wanted - len(kept)), b""):  # noqa: B023 - used up in this turn
                kept += chunk
                if len(kept) == wanted:
                    yield kept
                    kept = b""
    if kept:
        yield kept


def _floats(raw: "bytes", images: "Images") -> "bytes":
    """Each byte as four: one table for each byte of the float32, written with a stride of four."""
    channels, height, width = images.shape
    plane, out = height * width, bytearray(FLOAT_BYTES * len(raw))
    for index, start in enumerate(range(0, len(raw), plane)):
        pixels, first = raw[start : start + plane], FLOAT_BYTES * start
        for place, table in enumerate(images.planes[index % channels]):
            out[first + place : first + FLOAT_BYTES * plane : FLOAT_BYTES] = pixels.translate(table)
    return bytes(out)


def _planes_from(tables: "Any", channels: "int") -> "list[list[bytes]]":
    if len(tables) != channels or any(len(table) != _LEVELS for table in tables):
        raise ValueError(f"tables must be {channels} of {_LEVELS} values")
    packed = [struct.pack(f"<{_LEVELS}f", *table) for table in tables]
    return [[one[place::FLOAT_BYTES] for place in range(FLOAT_BYTES)] for one in packed]
