"""The images that a repair is checked on: as the graph takes them, given ones or random."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeres.core.errors import InputError
from edgeres.core.onnx_file import is_channels_last

Layout = Literal["nchw", "nhwc"]
_ANY_SIZE, _ANY_CHANNELS = 224, 3  # of an image whose shape the graph leaves open
_IMAGE_RANK = 3
_SEED = 0
_KINDS: dict[int, type[np.floating[Any]]] = {onnx.TensorProto.FLOAT: np.float32, onnx.TensorProto.FLOAT16: np.float16}


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
    model: onnx.ModelProto, name: str, *, layout: Layout | None = None, size: int | None = None
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
    if size is not None and any(side not in {0, size} for side in image[1:]):
        raise InputError(f"--size {size}: {name} takes {' x '.join(map(str, image[1:]))}; leave it out")
    shape = tuple(side or ((size or _ANY_SIZE) if axis else _ANY_CHANNELS) for axis, side in enumerate(image))
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
