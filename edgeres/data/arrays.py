"""Images in a NumPy file: uint8, or floats that are rounded to it, (N, H, W, C), (N, C, H, W) or (N, H, W).

    images.npy      pixels alone
    images.npz      `images`, and `labels` (N,) if there are any: places among the network's outputs

A file may call them x and y. Floats are 0 to 1, or 0 to 255 if the largest is over 1.
"""

from __future__ import annotations

import logging
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeres.core.errors import InputError, few_of, reason_of
from edgeres.data.dataset import Dataset, Request
from edgeres.data.folder import dataset_of
from edgeres.data.images import Pixels
from edgeres.data.split import UNLABELLED, Labels, drawn_apart, split_from_arrays

_IMAGES, _LABELS = ("images", "x"), ("labels", "y")
_CHANNELS = (1, 3)
_MAX_BYTE = 255
_AT_A_TIME = 256  # images that are rounded at a time
_DAMAGE = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)
_log = logging.getLogger(__name__)


def npy(request: Request) -> Dataset:
    """The images of an array, without labels; raises InputError for what holds no pixels."""
    path = Path(request.argument).expanduser()
    return _dataset(f"npy:{request.argument}", path, _loaded(path, path, mmap_mode="r"), None, request.seed)


def npz(request: Request) -> Dataset:
    """The images of an archive, and their labels if it has some."""
    path = Path(request.argument).expanduser()
    with path.open("rb") as file:  # numpy leaves a damaged one open
        archive = _loaded(path, file)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise InputError(f"{path} is one array, not an archive of several; name it npy:{path}")
        found = [next((name for name in names if name in archive.files), None) for names in (_IMAGES, _LABELS)]
        if found[0] is None:
            raise InputError(f"{path} holds {few_of(archive.files)}; it should hold images, and may hold labels")
        images, labels = (None if name is None else _member(archive, name, path) for name in found)
    return _dataset(f"npz:{request.argument}", path, images, labels, request.seed)


def _dataset(name: str, path: Path, images: Any, labels: Any, seed: int) -> Dataset:
    if not isinstance(images, np.ndarray):
        raise InputError(f"{path} is an archive of arrays; name it npz:{path}")
    pixels = _pixels(images, path)
    numbers = np.full(len(pixels), UNLABELLED) if labels is None else _labels(labels, len(pixels), path)
    classes = () if labels is None else tuple(map(str, range(int(numbers.max()) + 1)))
    whole = split_from_arrays("train", pixels, numbers, [f"{path.name}/{row}" for row in range(len(pixels))])
    train, val = drawn_apart(whole, classes, seed, str(path))
    return dataset_of(name, train, val, classes, numbered=labels is not None)


def _loaded(path: Path, source: Any, **how: Any) -> Any:
    try:
        return np.load(source, allow_pickle=False, **how)
    except _DAMAGE as err:
        raise InputError(f"{path} is not a readable array ({_why(err)}); save it anew with numpy.save") from err


def _member(archive: Any, name: str, path: Path) -> Any:
    try:
        if isinstance(found := archive[name], np.ndarray):
            return found
        raise ValueError("no array")
    except _DAMAGE as err:
        raise InputError(f"{path}: {name} is not a readable array ({_why(err)}); save it anew") from err


def _why(err: Exception) -> str:
    is_object = "allow_pickle" in str(err) or "Python objects" in str(err)
    return "it holds Python objects, which are never unpickled" if is_object else reason_of(err)


def _pixels(images: NDArray[Any], path: Path) -> Pixels:
    """uint8 (N, H, W, C); raises InputError for another type, shape or range."""
    shape = " x ".join(map(str, images.shape))
    if images.ndim == 3 and max(_CHANNELS) in (images.shape[0], images.shape[2]):
        raise InputError(f"{path} is {shape}, one image; save several as N x H x W x 3, or x 1")
    if images.ndim == 3:
        images = images[..., None]
    is_last, is_first = (images.ndim == 4 and images.shape[axis] in _CHANNELS for axis in (3, 1))
    if is_first == is_last:
        why = "the channels may be first or last" if is_first else "no axis is 1 or 3 channels"
        raise InputError(f"{path} is {shape}: {why}; save images as N x H x W x 3, or x 1")
    if not images.size:
        raise InputError(f"{path} is {shape}: it holds no image")
    images = images.transpose(0, 2, 3, 1) if is_first else images
    if images.dtype == np.uint8:
        return images
    if not np.issubdtype(images.dtype, np.floating):
        raise InputError(f"{path} has more than 8 bits a channel, or a sign ({images.dtype}); convert it to uint8")
    return _rounded(images, path)


def _rounded(images: NDArray[Any], path: Path) -> Pixels:
    parts = [slice(start, start + _AT_A_TIME) for start in range(0, len(images), _AT_A_TIME)]
    low, high = np.min([images[part].min() for part in parts]), np.max([images[part].max() for part in parts])
    if not np.isfinite([low, high]).all():
        raise InputError(f"{path} holds values that are not finite; pixels are 0 to 1 or 0 to 255")
    if not (low >= 0 and high <= _MAX_BYTE):
        raise InputError(
            f"{path} holds values from {low:.3g} to {high:.3g}; pixels are 0 to 1 or 0 to 255: undo the normalisation"
        )
    factor = _MAX_BYTE if high <= 1 else 1
    _log.info("%s: %.3g to %.3g, rounded to 8 bits as pixels of 0 to %d", path, low, high, _MAX_BYTE // factor)
    pixels = np.empty(images.shape, np.uint8)
    for part in parts:
        pixels[part] = np.rint(images[part] * factor)
    return pixels


def _labels(labels: Any, n: int, path: Path) -> Labels:
    if labels.shape == (n, 1):
        labels = labels[:, 0]
    if labels.shape != (n,) or not np.issubdtype(labels.dtype, np.integer):
        shape = " x ".join(map(str, labels.shape))
        raise InputError(f"{path}: labels are {labels.dtype} {shape}; there should be {n} whole numbers")
    if int(labels.min()) < 0:
        raise InputError(f"{path}: label {int(labels.min())} is below 0")
    return np.asarray(labels, np.int64)
