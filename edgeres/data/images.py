"""One image file to one network input, on PIL and numpy alone.

    file -> image (L or RGB) -> brought to the input's size -> uint8 (H, W, C) -> (x / 255 - mean) / std

Resizing and cropping round as torchvision does, so its checkpoints see what they were trained on. EXIF orientation is
followed only where the model's preprocessing says so, again as in torchvision.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from edgeres.core.errors import InputError, reason_of
from edgeres.core.spec import ModelSpec, Preprocess

Pixels = NDArray[np.uint8]
Images = NDArray[np.float32]

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".avif", ".ppm", ".pgm", ".tif", ".tiff", ".gif"}
)
RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
_GREY_MODES = {"1", "L", "LA", "La"}
_DEEP_MODES = {"I", "F", "I;16", "I;16L", "I;16B", "I;16N"}
_MAX_BYTE = 255
_TURNED = range(2, 9)  # EXIF orientations other than upright


def image_from(path: Path) -> Image.Image:
    """The decoded image in mode L or RGB; InputError names a file that is absent, corrupt or not 8-bit."""
    with _opened(path) as image:
        image.load()
        return _grey_or_rgb(image, path)


def header_of(path: Path) -> tuple[int, int, int]:
    """(H, W, C) read from the file's header; C is 1 for grey images, otherwise 3."""
    with _opened(path) as image:
        return image.height, image.width, 1 if image.mode in _GREY_MODES else 3


def pixels_from(image: Image.Image) -> Pixels:
    """uint8 (H, W, C)."""
    pixels: Pixels = np.asarray(image, np.uint8)
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def picture_from(pixels: Pixels) -> Image.Image:
    """The image of uint8 (H, W, C), C = 1 or 3."""
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def is_turned(path: Path) -> bool:
    """Whether the file asks to be shown rotated or mirrored (EXIF orientation); not if it is damaged."""
    with suppress(InputError), _opened(path) as image:
        return image.getexif().get(ExifTags.Base.Orientation, 1) in _TURNED
    return False


def upright(image: Image.Image, preprocess: Preprocess) -> Image.Image:
    """`image`, turned as its EXIF orientation says if `preprocess` follows that."""
    return ImageOps.exif_transpose(image) if preprocess.exif else image


def fitted(image: Image.Image, spec: ModelSpec, label: str) -> Pixels:
    """`image` brought to the input's size and channels: uint8 (H, W, C).

    Raises InputError naming `label` if the preprocessing does not resize and the size differs.
    """
    channels, height, width = spec.input_shape
    preprocess, resampling = spec.preprocess, RESAMPLING[spec.preprocess.interpolation]
    image = upright(with_channels(image, channels), preprocess)
    if preprocess.fit == "letterbox":
        return pixels_from(ImageOps.pad(image, (width, height), resampling, (preprocess.border,) * channels))
    if preprocess.fit == "squash":
        share = (preprocess.resize or min(height, width)) / min(height, width)
        image = image.resize((round(width * share), round(height * share)), resampling)
    elif preprocess.resize is not None:
        image = _resized(image, preprocess.resize, resampling)
    elif image.size != (width, height):
        raise InputError(
            f"{label} is {image.width}x{image.height} pixels, {spec.variant} takes {width}x{height} without"
            " resizing; resize the images, or say --resize where the model is imported or fed (train: --image-size)"
        )
    return pixels_from(_centre_cropped(image, (height, width), label))


def with_channels(image: Image.Image, channels: int) -> Image.Image:
    """Grey for 1 channel, colour for 3; raises InputError for any other number."""
    if channels not in {1, 3}:
        raise InputError(f"images have 1 or 3 channels, the model takes {channels}")
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def normalised(pixels: Pixels, preprocess: Preprocess) -> Images:
    """uint8 (N, H, W, C) to float32 (N, C, H, W): (x / 255 - mean) / std."""
    images = pixels.astype(np.float32) / np.float32(_MAX_BYTE)
    images -= np.asarray(preprocess.mean, np.float32)
    images /= np.asarray(preprocess.std, np.float32)
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def _grey_or_rgb(image: Image.Image, path: Path) -> Image.Image:
    if image.mode in _DEEP_MODES:
        raise InputError(f"{path} has more than 8 bits a channel (mode {image.mode}); convert it to 8 bits")
    if image.mode in _GREY_MODES:
        return image.convert("L")
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _resized(image: Image.Image, side: int, resampling: Image.Resampling) -> Image.Image:
    short, long = min(image.size), max(image.size)
    if short == side:
        return image
    longer = int(side * long / short)
    size = (side, longer) if image.width <= image.height else (longer, side)
    return image.resize(size, resampling)


def _centre_cropped(image: Image.Image, size: tuple[int, int], label: str) -> Image.Image:
    height, width = size
    if image.height < height or image.width < width:
        raise InputError(
            f"{label} is {image.width}x{image.height} pixels after resizing, smaller than the input"
            f" {width}x{height}; the model's resize must be at least its input's size"
        )
    top, left = round((image.height - height) / 2), round((image.width - width) / 2)
    if image.size == (width, height):
        return image
    return image.crop((left, top, left + width, top + height))


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The image file, not decoded yet; raises InputError where it, or what is read of it inside, is damaged."""
    try:
        with Image.open(path) as image:
            yield image
    except _DAMAGE as err:
        if path.is_symlink() and not path.exists():
            gone = f"{path} is a link to nothing: {path.readlink()} is not there; bring it back, or remove the link"
            raise InputError(gone) from err
        if isinstance(err, FileNotFoundError):
            raise InputError(f"{path} does not exist") from err
        raise InputError(f"{path} is not a readable image ({reason_of(err, 120)}); replace or remove it") from err
