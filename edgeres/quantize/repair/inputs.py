"""Whether a repaired graph rounds what its layers and additions read as finely as the original's own ranges ask for.

For each of these inputs, x being what the float graph computes there, all pairs but its own taken out (`roundings`):

    excess = 10 log10( sum (repaired(x) - x)^2 / max( sum (original(x) - x)^2, sum (symmetric(x) - x)^2 ) )

symmetric(x) is one int8 pair over the original's range, steps of max(|low|, |high|) / 127: what becomes of a uint8 pair
or one with a zero point. Sums are over what the original does not clip; where its range starts at 0 the pair was a
ReLU, and x is max(x, 0). Every x is taken from images and, once more, spread over the original's range, which images
may not fill. Nothing accumulates, so the size of one pair shows however small its part in the logits.

Right repairs of ONNX Runtime's files stay below 0.03 dB: 48 of `tools/lint_figures.py` and 8 with convolutions alone
quantized. One scale of four repaired ResNet-18, -20 and -50 (28 scales in turn) times 1.5, 2, 3, 4 made 3.3, 5.6, 9.0,
11.8 dB and more, times 0.5 made 35; at the logits none of these factors need show. Where the original rounds an input
twice, before and after its ReLU, that much is right too: in the files with convolutions alone quantized 1.5 may pass,
and 2 made 1.4 dB and more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeres.graph.draft import Draft, inlined
from edgeres.graph.session import GraphSession
from edgeres.quantize.calibrators import LEVELS
from edgeres.quantize.repair.images import ImageInput
from edgeres.quantize.repair.roundings import Range, Roundings
from edgeres.quantize.repair.stripping import Read

COARSER_DB = 1.0  # right repairs stay below 0.03, a scale twice too large made 1.4 and more
_BATCH = 4  # images at a time where the graph takes any number: every input of the graph is kept
_SEED = 0
_TINY = 1e-12  # of the signal: no rounding of 8 bits is as small


@dataclass(frozen=True)
class Coarseness:
    """`excess_db` of every input that could be compared; `unknown`: those for which the original has no range."""

    excess_db: dict[Read, float]
    unknown: tuple[Read, ...]

    @property
    def worst(self) -> tuple[Read, float] | None:
        """The input with the largest excess, None if nothing could be compared."""
        return max(self.excess_db.items(), key=lambda item: item[1], default=None)


def coarseness(
    original: onnx.ModelProto, floats: onnx.ModelProto, repaired: onnx.ModelProto, images: NDArray[Any]
) -> Coarseness:
    """Compares the inputs that `repaired` rounds; `floats`: `without_pairs(original)`.

    `images`: float32 (N, C, H, W), normalised; a handful is enough, every one has thousands of values of each tensor.
    """
    old, new, exact = (Roundings(m) for m in (Draft(inlined(original)).written(), repaired, floats))
    rounded = {read: name for read, name in new.reads.items() if name in new.rounded and read in exact.reads}
    sums = {read: _Sums(old.ranges.get(new.source(name))) for read, name in rounded.items()}
    for values in _values(floats, {*old.origins, *new.origins, *exact.reads.values()}, images):
        for fed in (values, _within(old.ranges, values)):
            x, before, after = ({**fed, **one.run(fed)} for one in (exact, old, new))
            for read, name in rounded.items():
                given = old.reads.get(read)
                if name in after:
                    sums[read].add(
                        x[exact.reads[read]], after[name], before.get(given) if given in old.rounded else None
                    )
    known = {read: one.excess_db for read, one in sums.items() if one.is_known}
    return Coarseness(known, tuple(read for read in rounded if read not in known))


def _within(ranges: Mapping[str, Range], values: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Computed tensors of the shapes of `values`, evenly spread over the original's ranges."""
    rng = np.random.default_rng(_SEED)
    return {
        name: rng.uniform(*ranges[name], value.shape).astype(value.dtype) if name in ranges else value
        for name, value in values.items()
    }


def _values(floats: onnx.ModelProto, tensors: set[str], images: NDArray[Any]) -> Iterator[dict[str, NDArray[Any]]]:
    """Those of `tensors` that the float graph has, batch by batch."""
    given = ImageInput(floats, "the float graph")
    computed = sorted(tensors & {output for node in floats.graph.node for output in node.output if output})
    session = GraphSession(floats, "the float graph", computed)
    for batch, _ in given.batches(images, _BATCH):
        yield {**session.run({given.name: batch}), given.name: batch}


class _Sums:
    """Squared errors of one input: the repaired file's, the original's and those of a symmetric pair on its range."""

    def __init__(self, limits: Range | None) -> None:
        self._limits = limits
        self._signal = self._repaired = self._original = self._symmetric = 0.0
        self.is_known = limits is not None

    def add(self, exact: NDArray[Any], repaired: NDArray[Any], original: NDArray[Any] | None) -> None:
        """Counts a batch; `original` is None where the original does not round this input."""
        x = exact.astype(np.float64)
        self.is_known |= original is not None
        if self._limits is None:
            kept = np.ones(x.shape, bool)
        else:
            low, high = self._limits
            if original is not None and low >= 0:
                x = np.maximum(x, 0)
            kept = (x >= low) & (x <= high)
            self._symmetric += _error(_symmetric(x, max(-low, high)), x, kept)
        self._signal += float(np.square(x).sum())
        self._repaired += _error(repaired, x, kept)
        self._original += 0.0 if original is None else _error(original, x, kept)

    @property
    def excess_db(self) -> float:
        """How much larger the repaired file's error is than it need be."""
        least = _TINY * self._signal + float(np.finfo(np.float64).tiny)
        if not math.isfinite(self._repaired):
            return math.inf
        return 10 * math.log10(max(self._repaired, least) / max(self._original, self._symmetric, least))


def _symmetric(x: NDArray[np.float64], amax: float) -> NDArray[np.float64]:
    scale = amax / LEVELS
    rounded: NDArray[np.float64] = np.clip(np.rint(x / scale), -LEVELS - 1, LEVELS) * scale
    return rounded


def _error(values: NDArray[Any], x: NDArray[np.float64], kept: NDArray[np.bool_]) -> float:
    return float(np.square(values - x, where=kept, out=np.zeros(x.shape)).sum())
