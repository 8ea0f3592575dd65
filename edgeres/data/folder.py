"""Folders of images, one folder a class: the layout torchvision's ImageFolder made usual.

    PATH/train/CLASS/*.jpg and PATH/val/CLASS/*.jpg   (val may be called valid, validation or test)
    PATH/CLASS/*.jpg                                  (about a fifth of each class is set aside by the seed)

In the second form an image's name alone decides where it goes, so that images added later never move one that a model
has been trained on into the split it is judged on.

Classes are numbered in alphabetical order. Files are found in sub-folders too; hidden ones are left out. Links are
followed; a file that several lead to counts once in its split.
"""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

import numpy as np

from edgeres.core.errors import InputError
from edgeres.core.spec import Preprocess
from edgeres.data.dataset import Dataset, Request
from edgeres.data.images import SUFFIXES
from edgeres.data.sources import FileSource
from edgeres.data.split import Split, SplitName, split_from_files
from edgeres.data.tree import images_below
from edgeres.models.family import CIFAR_PREPROCESS, IMAGENET_PREPROCESS

VAL_FRACTION = 0.2
_VAL_NAMES = ("val", "valid", "validation", "test")
_SMALL_SIDE = 96  # STL-10's: up to here images of one size go into the network as they are
_GREY_PREPROCESS = Preprocess(mean=(0.5,), std=(0.25,), resize=None)
_log = logging.getLogger(__name__)


def folder(request: Request) -> Dataset:
    """The images under the path; raises InputError naming the folder if it is absent or holds none."""
    root = Path(request.argument).expanduser()
    train, val, classes = _two_splits(root) if (root / "train").is_dir() else _one_tree(root, request.seed)
    preprocess, shape = _input_of(train)
    return Dataset(f"folder:{request.argument}", classes, train, val, preprocess, shape)


def _two_splits(root: Path) -> tuple[Split, Split, tuple[str, ...]]:
    val_root = next((root / name for name in _VAL_NAMES if (root / name).is_dir()), None)
    if val_root is None:
        raise InputError(f"{root} has train/ but none of {', '.join(f'{name}/' for name in _VAL_NAMES)}")
    classes, val_classes = _classes(root / "train"), _classes(val_root)
    if unknown := sorted(set(val_classes) - set(classes)):
        raise InputError(f"class {unknown[0]!r} is in {val_root} but not in {root / 'train'}")
    if unseen := sorted(set(classes) - set(val_classes)):
        _log.warning("%s has no images of %s", val_root, ", ".join(unseen))
    train = _split(root / "train", "train", classes, classes)
    return train, _split(val_root, "val", classes, val_classes), classes


def _one_tree(root: Path, seed: int) -> tuple[Split, Split, tuple[str, ...]]:
    classes = _classes(root)
    whole = _split(root, "train", classes, classes)
    held_out = np.zeros(len(whole), bool)
    for number, label in enumerate(classes):
        places = np.flatnonzero(whole.labels == number)
        if len(places) < 2:
            raise InputError(f"class {label!r} of {root} has one image; add some, or make train/ and val/")
        draws = np.asarray([_draw(whole.ids[place], seed) for place in places])
        chosen = draws < VAL_FRACTION
        chosen[draws.argmin()], chosen[draws.argmax()] = True, False
        held_out[places[chosen]] = True
    return whole.subset(np.flatnonzero(~held_out)), whole.subset(np.flatnonzero(held_out)).named("val"), classes


def _draw(image_id: str, seed: int) -> float:
    """A number in [0, 1) that depends on the image's path below the root and the seed only."""
    path = image_id.partition("/")[2]
    return int.from_bytes(hashlib.sha256(f"{seed}/{path}".encode()).digest()[:7], "big") / 2**56


def _classes(root: Path) -> tuple[str, ...]:
    names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    if len(names) < 2:
        found = f"only the folder {names[0]!r}" if names else "no folder"
        raise InputError(f"{root} holds {found}; it should hold one folder of images for each class")
    return tuple(names)


def _split(root: Path, name: SplitName, classes: tuple[str, ...], present: tuple[str, ...]) -> Split:
    paths: list[Path] = []
    labels: list[int] = []
    for label, found in zip(present, images_below([root / label for label in present]), strict=True):
        if not found:
            raise InputError(_no_image_in(root / label))
        paths += found
        labels += [classes.index(label)] * len(found)
    return split_from_files(name, paths, labels, [f"{root.name}/{path.relative_to(root).as_posix()}" for path in paths])


def _no_image_in(folder: Path) -> str:
    if folder.is_symlink():
        return f"class folder {folder} is a link to {folder.readlink()}, which adds no image to the other classes"
    return f"class folder {folder} holds no image ({', '.join(sorted(SUFFIXES))})"


def _input_of(train: Split) -> tuple[Preprocess, tuple[int, int, int]]:
    """Small images of one size as they are, all others resized to 256 and cropped to 224."""
    shape = train.source.shape if isinstance(train.source, FileSource) else None
    if shape is None or max(shape) > _SMALL_SIDE:
        return IMAGENET_PREPROCESS, (3, 224, 224)
    height, width, channels = shape
    return _GREY_PREPROCESS if channels == 1 else CIFAR_PREPROCESS, (channels, height, width)
