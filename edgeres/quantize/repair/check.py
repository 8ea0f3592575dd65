"""Whether a repaired graph still computes the same: both evaluated literally by ONNX Runtime on the same images.

Two INT8 versions of one network differ by the noise of both, and neither is the truth; the float graph that the repair
went through tells how much noise each has. Measured on 48 files of ONNX Runtime (`tools/lint_figures.py`), correct
repairs agree with their originals to 26 to 30 dB on ResNet-18, -20 and -56 (23 and more on random textures) and to 14
to 15 dB on a random ResNet-50, whose own noise is as large. On six of them original and repaired file were 0.2 to 2.5
dB apart in their distance from the float graph. One lost ReLU or bias made that 4.7 to 17 dB, and the agreement -4 to
17 dB; so below TOLERANCE_DB both must be as far from float. A range four times too wide passes here, since it costs the
logits little; `inputs` sees it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeres.core.artifacts import OnnxModel
from edgeres.core.errors import InputError
from edgeres.graph.session import GraphSession
from edgeres.quantize.repair.images import ImageInput

TOLERANCE_DB = 20.0  # above the faults named above, below what networks of usual noise reach
DEEP_DB = 12.0  # where both are as far from float
BALANCE_DB = 4.0  # between correct repairs and the mildest fault
_MOST_DB = 60.0  # of a distance from float: there is no noise to compare
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
    seen = images_for(first, images)
    reference, other = outputs_of(first, seen), outputs_of(second, seen)
    if not np.isfinite(reference).all():
        raise InputError(f"{first} computes numbers that are not finite; there is nothing to compare a repair with")
    return agreement_of(reference, other)


def outputs_of(path: Path, images: NDArray[Any]) -> NDArray[np.float64]:
    """The first output for every image, Q/DQ computed literally; raises InputError if ONNX Runtime cannot run it."""
    given = ImageInput(OnnxModel(path).proto, str(path))
    session = GraphSession(path, str(path))
    pieces = [
        next(iter(session.run({given.name: batch}).values()))[:count] for batch, count in given.batches(images, _BATCH)
    ]
    return np.concatenate(pieces).astype(np.float64)


def images_for(path: Path, images: NDArray[Any] | int) -> NDArray[Any]:
    """`images`, or that many random ones for the graph in `path`."""
    return ImageInput(OnnxModel(path).proto, str(path)).noise(images) if isinstance(images, int) else images


def agreement_of(reference: NDArray[np.float64], other: NDArray[np.float64]) -> Agreement:
    """How near `other` is to `reference`, both (N, ...)."""
    noise = float(np.square(reference - other).sum())
    signal = float(np.square(reference).sum())
    sqnr = math.inf if noise == 0 else 10 * math.log10(signal / noise) if signal > 0 else -math.inf
    rows = reference.reshape(len(reference), -1).argmax(1) == other.reshape(len(other), -1).argmax(1)
    return Agreement(sqnr if math.isfinite(noise) else -math.inf, float(rows.mean()), len(rows))


def needed_db(original: Path, floats: Path, repaired: Path, images: NDArray[Any] | int) -> float:
    """Least SQNR of `repaired` to `original`; less where both are as far from `floats`, the graph without pairs."""
    seen = images_for(original, images)
    reference = outputs_of(floats, seen)
    distances = [
        min(agreement_of(reference, outputs_of(path, seen)).sqnr_db, _MOST_DB) for path in (original, repaired)
    ]
    return DEEP_DB if abs(distances[0] - distances[1]) <= BALANCE_DB else TOLERANCE_DB
