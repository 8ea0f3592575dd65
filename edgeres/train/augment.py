"""Augmentation from given uniform numbers: small images in batches on tensors, large ones singly on PIL.

u = (u0, u1, u2, u3, u4) in [0, 1)
crop    pad by an eighth of the side (4 pixels at 32), cut out at (u0, u1); flip if u2 < 1/2
large   cut out a part of area from u3 and aspect ratio from u4 at (u0, u1), resize; flip if u2 < 1/2
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

from edgeres.core.spec import ModelSpec
from edgeres.data.images import RESAMPLING, Pixels, pixels_from, upright, with_channels
from edgeres.train.config import AugmentChoice

Augment = Literal["none", "crop", "crop-flip"]
Draws = NDArray[np.float64]
_PAD_SHARE = 1 / 8  # 4 of 32 pixels, as He et al. 2015, section 4.2
_AREA = (0.08, 1.0)  # of the image, as Szegedy et al. 2014, arXiv 1409.4842, section 6
_LOG_RATIO = (math.log(3 / 4), math.log(4 / 3))


def augment_for(choice: AugmentChoice, channels: int) -> Augment:
    """What `auto` means: photographs may be mirrored, grey images (digits, scans) may not."""
    if choice != "auto":
        return choice
    return "crop-flip" if channels == 3 else "crop"


def padding_of(height: int, width: int) -> int:
    """Pixels of black around an image before it is cropped."""
    return max(1, round(min(height, width) * _PAD_SHARE))


def augmented(images: Tensor, draws: Draws, kind: Augment) -> Tensor:
    """uint8 (N, H, W, C), each image shifted (and mirrored) as its row of `draws` (N, 5) says."""
    if kind == "none":
        return images
    height, width = images.shape[1:3]
    margin = padding_of(height, width)
    places = np.floor(draws[:, :2] * (2 * margin + 1)).astype(np.int64)
    down = places[:, :1] + np.arange(height)
    across = places[:, 1:] + np.arange(width)
    if kind == "crop-flip":
        across = np.where(draws[:, 2:3] < 0.5, across[:, ::-1], across)
    padded = pad(images, (0, 0, margin, margin, margin, margin))
    rows, ys, xs = (torch.from_numpy(a).to(images.device) for a in (np.arange(len(images)), down, across))
    return padded[rows[:, None, None], ys[:, :, None], xs[:, None, :]]


def resized_crop(image: Image.Image, draws: Draws, kind: Augment, spec: ModelSpec) -> Pixels:
    """uint8 (H, W, C) of the input's size from a random part of the image, `draws` (5,).

    A part that would stick out is shortened to the image's side instead of being drawn again.
    """
    channels, height, width = spec.input_shape
    image = upright(image, spec.preprocess)
    box = _box(image.size, draws)
    resampling = RESAMPLING[spec.preprocess.interpolation]
    image = with_channels(image, channels).resize((width, height), resampling, box=box)
    if kind == "crop-flip" and draws[2] < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return pixels_from(image)


def _box(size: tuple[int, int], draws: Draws) -> tuple[int, int, int, int]:
    width, height = size
    area = width * height * _between(_AREA, draws[3])
    ratio = math.exp(_between(_LOG_RATIO, draws[4]))
    part_width = min(width, max(1, round(math.sqrt(area * ratio))))
    part_height = min(height, max(1, round(math.sqrt(area / ratio))))
    left = int(draws[1] * (width - part_width + 1))
    top = int(draws[0] * (height - part_height + 1))
    return left, top, left + part_width, top + part_height


def _between(bounds: tuple[float, float], share: float) -> float:
    return bounds[0] + share * (bounds[1] - bounds[0])
