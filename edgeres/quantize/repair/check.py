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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeres.core.errors import InputError
from edgeres.graph.draft import Draft
from edgeres.graph.session import GraphSession
from edgeres.graph.view import GraphView
from edgeres.quantize.repair.images import ImageInput

TOLERANCE_DB = 20.0  # above the faults named above, below what networks of usual noise reach
DEEP_DB = 12.0  # where both are as far from float
BALANCE_DB = 4.0  # between correct repairs and the mildest fault
_MOST_DB = 60.0  # of a distance from float: there is no noise to compare
_BATCH = 16  # images at a time where the graph takes any number
_CHOOSING = frozenset({"ArgMax", "ArgMin", "Cast"})  # from them to what they read: numbers that noise moves little
Outputs = Sequence[NDArray[np.float64]]


@dataclass(frozen=True)
class RepairCheck:
    """Of a repaired file's outputs: the least SQNR of one against the original's, and the least that is right.

    `top1`: share of equal first guesses, by the first output; `n`: images seen.
    """

    sqnr_db: float
    needed_db: float
    top1: float
    n: int


def check_of(original: Path, repaired: Path, floats: onnx.ModelProto, given: ImageInput) -> RepairCheck:
    """Compares two ONNX files on the images of `given`; `floats`: the graph between them, without pairs.

    Raises InputError if ONNX Runtime cannot run a file, or the original's outputs are not finite or always the same.
    """
    reference, other = outputs_of(original, given), outputs_of(repaired, given)
    if not all(np.isfinite(values).all() for values in reference):
        raise InputError(f"{original} computes numbers that are not finite; there is nothing to compare a repair with")
    telling = [index for index, values in enumerate(reference) if _tells(values)]
    n = len(given.images)
    if not telling:
        what = "zero" if not any(values.any() for values in reference) else "the same"
        raise InputError(
            f"{original} gives outputs that are {what} for every one of {n} images, which proves nothing of a repair;"
            " show it images that it tells apart: --data"
        )
    exact = outputs_of(floats, given)
    least = min(sqnr_db(reference[index], other[index]) for index in telling)
    before, after = (min(min(sqnr_db(exact[at], one[at]), _MOST_DB) for at in telling) for one in (reference, other))
    needed = DEEP_DB if abs(before - after) <= BALANCE_DB else TOLERANCE_DB
    first, second = (one[telling[0]].reshape(n, -1).argmax(1) for one in (reference, other))
    return RepairCheck(least, needed, float((first == second).mean()), n)


def outputs_of(model: Path | onnx.ModelProto, given: ImageInput) -> list[NDArray[np.float64]]:
    """Its outputs (N, ...), of a class number what it was chosen from; Q/DQ computed literally.

    Raises InputError if ONNX Runtime cannot run it.
    """
    proto = onnx.load(str(model)) if isinstance(model, Path) else model
    if len(named := [node.name for node in proto.graph.node if node.name]) > len(set(named)):
        proto = Draft(proto).written()  # ONNX Runtime takes no name twice
    names = _compared(GraphView(proto))
    session = GraphSession(proto, str(model) if isinstance(model, Path) else "the float graph", names)
    batches = [(session.run(feeds), count) for feeds, count in given.batches(_BATCH)]
    return [np.concatenate([found[name][:count] for found, count in batches]).astype(np.float64) for name in names]


def sqnr_db(reference: NDArray[np.float64], other: NDArray[np.floating[Any]]) -> float:
    """How near `other` is to `reference`, both (N, ...); infinite where they are equal."""
    noise = float(np.square(reference - other).sum())
    signal = float(np.square(reference).sum())
    if not math.isfinite(noise):
        return -math.inf
    return math.inf if noise == 0 else 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def _compared(view: GraphView) -> list[str]:
    names = []
    for name in view.outputs:
        while view.op_of(name) in _CHOOSING:
            name = str(view.producers[name].input[0])
        names.append(name)
    return list(dict.fromkeys(names))


def _tells(values: NDArray[np.float64]) -> bool:
    """Whether anything differs between images; of a single one, whether it is not zero."""
    return bool((values != values[:1]).any()) if len(values) > 1 else bool(values.any())
