"""Whether a repaired graph still computes the same: both evaluated literally by ONNX Runtime on the same images.

Two INT8 versions of one network differ by the noise of both, and neither is the truth; the float graph that the repair
went through tells how much noise each has. Measured on 48 files of ONNX Runtime (`tools/lint_figures.py`), correct
repairs agree with their originals to 26 to 30 dB on ResNet-18, -20 and -56 (23 and more on random textures) and to 14
to 15 dB on a random ResNet-50, whose own noise is as large. On six of them original and repaired file were 0.2 to 2.5
dB apart in their distance from the float graph. One lost ReLU or bias made that 4.7 to 17 dB, and the agreement -4 to
17 dB; so below TOLERANCE_DB both must be as far from float. A range four times too wide passes: it costs little.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeres.core.errors import InputError, require

TOLERANCE_DB = 20.0  # above the faults named above, below what networks of usual noise reach
DEEP_DB = 12.0  # where both are as far from float
BALANCE_DB = 4.0  # between correct repairs and the mildest fault
_MOST_DB = 60.0  # of a distance from float: there is no noise to compare
_ANY_SIZE = 224  # of an image whose size the graph leaves open
_SEED = 0
_BATCH = 16  # images at a time where the graph takes any number


@dataclass(frozen=True)
class Agreement:
    """`sqnr_db` of the second model's logits against the first's, share of equal top-1 answers, images seen."""

    sqnr_db: float
    top1: float
    n: int


def agreement(first: Path, second: Path, images: NDArray[Any] | int) -> Agreement:
    """Compares two ONNX files on `images`, float32 (N, C, H, W), normalised, or on that many random ones.

    Raises:
        InputError: ONNX Runtime cannot run a file, or the first one's outputs are not finite.
    """
    seen = _Session(first).noise(images) if isinstance(images, int) else images
    reference, other = outputs_of(first, seen), outputs_of(second, seen)
    if not np.isfinite(reference).all():
        raise InputError(f"{first} computes numbers that are not finite; there is nothing to compare a repair with")
    return agreement_of(reference, other)


def outputs_of(path: Path, images: NDArray[Any]) -> NDArray[np.float64]:
    """The first output for every image, Q/DQ computed literally; raises InputError if ONNX Runtime cannot run it."""
    return _Session(path).outputs(images)


def agreement_of(reference: NDArray[np.float64], other: NDArray[np.float64]) -> Agreement:
    """How near `other` is to `reference`, both (N, ...)."""
    noise = float(np.square(reference - other).sum())
    signal = float(np.square(reference).sum())
    sqnr = math.inf if noise == 0 else 10 * math.log10(signal / noise) if signal > 0 else -math.inf
    rows = reference.reshape(len(reference), -1).argmax(1) == other.reshape(len(other), -1).argmax(1)
    return Agreement(sqnr if math.isfinite(noise) else -math.inf, float(rows.mean()), len(rows))


def needed_db(original: Path, floats: Path, repaired: Path, images: NDArray[Any] | int) -> float:
    """Least SQNR of `repaired` to `original`; less where both are as far from `floats`, the graph without pairs."""
    seen = _Session(original).noise(images) if isinstance(images, int) else images
    reference = outputs_of(floats, seen)
    distances = [
        min(agreement_of(reference, outputs_of(path, seen)).sqnr_db, _MOST_DB) for path in (original, repaired)
    ]
    return DEEP_DB if abs(distances[0] - distances[1]) <= BALANCE_DB else TOLERANCE_DB


class _Session:
    """An ONNX file, run in its own batch or in small ones."""

    def __init__(self, path: Path) -> None:
        ort = require("onnxruntime", "onnx")
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as err:
            raise InputError(f"ONNX Runtime cannot load {path}: {' '.join(str(err).split())}") from err
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or inputs[0].type not in ("tensor(float)", "tensor(float16)"):
            raise InputError(f"{path} has {len(inputs)} inputs; a repair is checked on models of one image input")
        self._name = inputs[0].name
        self._dtype = np.float16 if inputs[0].type == "tensor(float16)" else np.float32
        self._shape = [size if isinstance(size, int) and size > 0 else None for size in inputs[0].shape]

    def noise(self, count: int) -> NDArray[Any]:
        """Random images; a size left open becomes 3 channels of 224 x 224."""
        rest = [size or (3 if axis == 0 else _ANY_SIZE) for axis, size in enumerate(self._shape[1:])]
        return texture((count, *rest))

    def outputs(self, images: NDArray[Any]) -> NDArray[np.float64]:
        """The first output of every image, float64."""
        batch = (self._shape[0] if self._shape else 1) or _BATCH
        pieces = []
        for start in range(0, len(images), batch):
            piece = images[start : start + batch]
            padded = np.concatenate([piece, np.repeat(piece[-1:], batch - len(piece), axis=0)]).astype(self._dtype)
            pieces.append(self._session.run(None, {self._name: padded})[0][: len(piece)])
        return np.concatenate(pieces).astype(np.float64)


def texture(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Random images with structure of every size, as natural ones have: Gaussian noise of all octaves, unit variance.

    White noise would leave the ranges that a network was calibrated for, and mere clipping would be compared.
    """
    rng = np.random.default_rng(_SEED)
    if len(shape) != len("NCHW"):
        return rng.standard_normal(shape).astype(np.float32)
    size, octaves, total = max(shape[2:]), 0, np.zeros(shape)
    while (edge := size >> octaves) > 0:
        coarse = rng.standard_normal((*shape[:2], -(-shape[2] // edge), -(-shape[3] // edge)))
        total += coarse.repeat(edge, axis=2).repeat(edge, axis=3)[:, :, : shape[2], : shape[3]]
        octaves += 1
    scaled: NDArray[np.float32] = (total / np.sqrt(octaves)).astype(np.float32)
    return scaled
