"""The only abstraction with many implementations: a loaded model on a device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from edgeres.core.errors import InputError, StageError
from edgeres.core.spec import Task

Images = NDArray[np.float32]
Logits = NDArray[np.float32]


class RunnerOptions(NamedTuple):
    """How to execute.

    `threads`: CPU threads, None for the runtime's own choice. `literal_qdq`: evaluate Quantize/Dequantize nodes one by
    one, as TensorRT defines them, instead of ONNX Runtime's fused integer kernels (whose 16-bit sums saturate on CPUs
    without VNNI); used for accuracy, never for speed. None: literal, but fused for files of the ort-cpu profile.
    """

    threads: int | None = None
    literal_qdq: bool | None = None


class Runner(Protocol):
    """float32 images (N, C, H, W) in, normalised; float32 logits (N, K) out, or what else it gives, `joined`.

    `name` is the runtime as it stands in reports, `batch` the fixed number of images a call takes (None: any).
    """

    name: str
    batch: int | None

    def __enter__(self) -> Self:
        """Loads the model."""

    def __exit__(self, *exc: object) -> None:
        """Frees it."""

    def infer(self, images: Images) -> Logits:
        """Copies in, runs, copies out."""

    def load(self, images: Images) -> None:
        """For timing: brings the input to where `step` finds it."""

    def step(self) -> None:
        """For timing: one call on the loaded input."""

    def synchronize(self) -> None:
        """For timing: waits until the last step is done."""


def fed(images: Images, shape: Sequence[Any]) -> Images:
    """`images` (N, C, H, W) as an input of `shape` takes them: (N, H, W, C) where that alone fits."""
    _, channels, *sides = images.shape
    is_last = list(shape[1:]) == [*sides, channels] != [channels, *sides]
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1)) if is_last else images


def joined(outputs: Sequence[Logits]) -> Logits:
    """What a network gives as one array: its output, or several flattened, side by side (N, sum of sizes)."""
    return outputs[0] if len(outputs) == 1 else np.concatenate([one.reshape(len(one), -1) for one in outputs], 1)


def infer_all(runner: Runner, images: Images) -> Logits:
    """Logits of any number of images: cut to the runner's fixed batch, the last piece padded and trimmed."""
    size = runner.batch
    if size is None or len(images) == size:
        return runner.infer(images)
    pieces = []
    for start in range(0, len(images), size):
        piece = images[start : start + size]
        padding = [(0, size - len(piece))] + [(0, 0)] * (piece.ndim - 1)
        pieces.append(runner.infer(np.pad(piece, padding))[: len(piece)])
    return np.concatenate(pieces)


def check_outputs(outputs: Logits, count: int, what: str, task: Task = "classes") -> None:
    """Raises InputError unless `outputs` (n, ...) are `count` numbers an image, StageError if one is not finite."""
    is_fit = math.prod(outputs.shape[1:]) == count and (outputs.ndim == 2 or task == "tensors")
    if not is_fit:
        shape = " x ".join(map(str, outputs.shape[1:]))
        raise InputError(
            f"{what} gives {shape or 'one number'} for an image, not {count} "
            + ("scores of classes; name the file that ends with the classifier" if task == "classes" else "numbers")
        )
    if not np.isfinite(outputs).all():
        raise StageError(f"{what} gives {'logits' if task == 'classes' else 'outputs'} that are not finite")
