"""The images that a repair is checked on: as the graph takes them, given ones or random."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeres.core.errors import InputError

_ANY_SIZE = 224  # of an image whose size the graph leaves open
_SEED = 0


class ImageInput:
    """The one image input of a graph: its `name` and `dtype`.

    Raises:
        InputError: the graph has not one float input.
    """

    def __init__(self, model: onnx.ModelProto, name: str) -> None:
        stored = {tensor.name for tensor in model.graph.initializer}
        inputs = [value for value in model.graph.input if value.name not in stored]
        kinds = {onnx.TensorProto.FLOAT: np.float32, onnx.TensorProto.FLOAT16: np.float16}
        if len(inputs) != 1 or inputs[0].type.tensor_type.elem_type not in kinds:
            raise InputError(f"{name} has {len(inputs)} inputs; a repair is checked on models of one image input")
        self.name = inputs[0].name
        self.dtype = kinds[inputs[0].type.tensor_type.elem_type]
        self._shape: list[int | None] = [dim.dim_value or None for dim in inputs[0].type.tensor_type.shape.dim]

    def batches(self, images: NDArray[Any], usual: int) -> Iterator[tuple[NDArray[Any], int]]:
        """(images as the graph takes them, how many of them count): its own batch, or `usual` where it takes any.

        What lacks to the last batch is filled with its last image.
        """
        size = (self._shape[0] if self._shape else 1) or usual
        for start in range(0, len(images), size):
            piece = images[start : start + size]
            filled = np.concatenate([piece, np.repeat(piece[-1:], size - len(piece), axis=0)])
            yield filled.astype(self.dtype), len(piece)

    def noise(self, count: int) -> NDArray[np.float32]:
        """Random images; a size left open becomes 3 channels of 224 x 224."""
        rest = [size or (3 if axis == 0 else _ANY_SIZE) for axis, size in enumerate(self._shape[1:])]
        return texture((count, *rest))


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
