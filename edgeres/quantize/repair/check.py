"""Whether a repaired graph still computes the same: both evaluated literally by ONNX Runtime on the same images.

The images are given ones or random, as the graph takes them.

Two INT8 versions of one network differ by the noise of both, and neither is the truth; the float graph that the repair
went through tells how much noise each has. Measured on 48 files of ONNX Runtime (`tools/lint_figures.py`), correct
repairs agree with their originals to 26 to 30 dB on ResNet-18, -20 and -56 (23 and more on random textures) and to 14
to 15 dB on a random ResNet-50, whose own noise is as large. On six of them original and repaired file were 0.2 to 2.5
dB apart in their distance from the float graph. One lost ReLU or bias made that 4.7 to 17 dB, and the agreement -4 to
17 dB; so below TOLERANCE_DB both must be as far from float. A range four times too wide passes here, since it costs the
logits little; `inputs` sees it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeres.core.errors import InputError
from edgeres.core.input_options import sides_of
from edgeres.core.metrics import decibels
from edgeres.core.onnx_file import is_channels_last
from edgeres.graph.draft import Draft
from edgeres.graph.session import GraphSession
from edgeres.graph.view import GraphView

Layout = Literal["nchw", "nhwc"]
_ANY_SIZE, _ANY_CHANNELS = 224, 3  # of an image whose shape the graph leaves open
_IMAGE_RANK = 3
_SEED = 0
_KINDS: dict[int, type[np.floating[Any]]] = {onnx.TensorProto.FLOAT: np.float32, onnx.TensorProto.FLOAT16: np.float16}
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
    return decibels(float(np.square(reference).sum()), float(np.square(reference - other).sum()))


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


@dataclass(frozen=True)
class ImageInput:
    """The one image input of a graph and what it is shown: `images`, float32 (N, C, H, W), normalised.

    `shape` is (C, H, W) also where the graph takes (H, W, C); `batch` is None where it takes any.
    """

    name: str
    dtype: type[np.floating[Any]]
    batch: int | None
    shape: tuple[int, ...]
    channels_last: bool
    images: NDArray[Any]

    def showing(self, images: NDArray[Any] | int) -> ImageInput:
        """The same input and `images`, or so many random ones."""
        return replace(self, images=texture((images, *self.shape)) if isinstance(images, int) else images)

    def batches(self, usual: int, most: int | None = None) -> Iterator[tuple[dict[str, NDArray[Any]], int]]:
        """(feeds, how many of their images count): of the graph's own batch, or `usual` where it takes any.

        What lacks to the last batch is filled with its last image; at most the first `most` images are shown.
        """
        size = self.batch or usual
        shown = self.images[:most].astype(self.dtype)
        moved = np.moveaxis(shown, 1, -1) if self.channels_last else shown
        for start in range(0, len(moved), size):
            piece = moved[start : start + size]
            filled = np.concatenate([piece, np.repeat(piece[-1:], size - len(piece), axis=0)])
            yield {self.name: filled}, len(piece)


def image_input_of(
    model: onnx.ModelProto, name: str, *, layout: Layout | None = None, size: str | int | None = None
) -> ImageInput:
    """What the graph takes; `layout` where its shape does not tell, `size` of the sides that it leaves open.

    Raises InputError if it has not one float input, or what is said of it contradicts the graph, called `name`.
    """
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in stored]
    if len(inputs) != 1:
        named = f" ({', '.join(value.name for value in inputs)})" if inputs else ""
        raise InputError(f"{name} has {len(inputs)} inputs{named}; a repair is checked on models of one image input")
    tensor = inputs[0].type.tensor_type
    if tensor.elem_type not in _KINDS:
        kind = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
        raise InputError(
            f"{name} takes {kind} input; a repair is checked on float images: export it with such an input"
        )
    batch, *sides = [dim.dim_value or 0 for dim in tensor.shape.dim] or [0]
    channels_last = len(sides) == _IMAGE_RANK and (layout == "nhwc" if layout else is_channels_last(sides))
    image = (sides[-1], *sides[:-1]) if channels_last else tuple(sides)
    usual = (_ANY_CHANNELS, *sides_of(size or _ANY_SIZE))
    shape = tuple(side or usual[min(axis, 2)] for axis, side in enumerate(image))
    if size is not None and shape[1:] != usual[1:]:
        raise InputError(f"--size {size}: {name} takes {' x '.join(map(str, image[1:]))}; leave it out")
    return ImageInput(
        inputs[0].name, _KINDS[tensor.elem_type], batch or None, shape, channels_last, np.zeros((0, *shape), np.float32)
    )


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
