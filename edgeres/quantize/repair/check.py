"""Whether a repaired graph still computes the same: both evaluated literally by ONNX Runtime on the same images.

Two INT8 versions of one network differ by the noise of both, and neither is the truth. Measured on ONNX Runtime's and
NNCF's files of ResNet-20 (trained), ResNet-18 and ResNet-50 (random): repaired ones agree with their originals to 14.7
to 32 dB; with one ReLU lost on the way to -9 to 14 dB, so the
check catches gross faults, not every one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeres.core.errors import InputError, require

TOLERANCE_DB = 10.0  # between the two kinds named above
_ANY_SIZE = 224  # of an image whose size the graph leaves open
_SEED = 0


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
    one, two = _Session(first), _Session(second)
    if isinstance(images, int):
        images = one.noise(images)
    reference, other = one.outputs(images), two.outputs(images)
    if not np.isfinite(reference).all():
        raise InputError(f"{first} computes numbers that are not finite; there is nothing to compare a repair with")
    noise = float(np.square(reference - other).sum())
    signal = float(np.square(reference).sum())
    sqnr = math.inf if noise == 0 else 10 * math.log10(signal / noise) if signal > 0 else -math.inf
    rows = reference.reshape(len(reference), -1).argmax(1) == other.reshape(len(other), -1).argmax(1)
    return Agreement(sqnr if math.isfinite(noise) else -math.inf, float(rows.mean()), len(rows))


class _Session:
    """An ONNX file, run image by image or in its own batch."""

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
        batch = (self._shape[0] if self._shape else 1) or 1
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
