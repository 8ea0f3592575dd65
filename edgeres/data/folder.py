"""Folders of images, one folder a class: the layout torchvision's ImageFolder made usual.

    PATH/train/CLASS/*.jpg and PATH/val/CLASS/*.jpg   (or Training, training_set; Valid, validation, Test, test_set ...)
    PATH/CLASS/*.jpg                                  (about a fifth of each class is set aside by the seed)

In the second form an image's name alone decides where it goes, so that images added later never move one that a model
has been trained on into the split it is judged on (but where a class has so few that each split must get one).

Classes are numbered in alphabetical order of their names, composed (NFC). Files are found in sub-folders too; hidden
ones are left out. Links are followed; a file that several lead to counts once in its split.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from itertools import chain
from pathlib import Path

import numpy as np

from edgeres.core.errors import InputError
from edgeres.core.names import plain_name
from edgeres.core.spec import Preprocess
from edgeres.data.dataset import Dataset, Request
from edgeres.data.images import SUFFIXES
from edgeres.data.sources import FileSource
from edgeres.data.split import Split, SplitName, split_from_files
from edgeres.data.tree import check_is_utf8, images_below, is_hidden
from edgeres.models.family import CIFAR_PREPROCESS, IMAGENET_PREPROCESS

VAL_FRACTION = 0.2
_TRAIN_NAMES = ("train", "training")
_VAL_NAMES = ("val", "valid", "validation", "test", "testing")  # the first that is there is taken
_SPLIT_NAME = re.compile(rf"({'|'.join((*_TRAIN_NAMES, *_VAL_NAMES))})[ _-]?(?:set|data|images)?", re.IGNORECASE)
_SMALL_SIDE = 96  # STL-10's: up to here images of one size go into the network as they are
_GREY_PREPROCESS = Preprocess(mean=(0.5,), std=(0.25,), resize=None)
_log = logging.getLogger(__name__)


Folders = dict[str, Path]  # of the classes, by name


def folder(request: Request) -> Dataset:
    """The images under the path; raises InputError naming the folder if it is absent or holds none."""
    root = Path(request.argument).expanduser()
    train = _split_folder(root, _TRAIN_NAMES)
    if train is None:
        _refuse_a_split(root)
    splits = _two_splits(root, train) if train else _one_tree(root, request.seed)
    preprocess, shape = _input_of(splits[0])
    return Dataset(f"folder:{request.argument}", splits[2], *splits[:2], preprocess, shape)


def _refuse_a_split(root: Path) -> None:
    """Raises InputError for a folder called like a split with the other one beside it: it would be split again."""
    whole = root.resolve()
    if not _SPLIT_NAME.fullmatch(whole.name):
        return
    train, val = (_split_folder(whole.parent, names) for names in (_TRAIN_NAMES, _VAL_NAMES))
    if train and val and whole in (train, val):
        raise InputError(
            f"{root} is one of two splits ({train.name}, {val.name}); name what holds both: {whole.parent}"
        )


def _split_folder(root: Path, names: tuple[str, ...]) -> Path | None:
    """The folder in `root` that is called like the first of `names` to be found, None if there is none.

    Raises InputError if two are and neither is exactly.
    """
    called = [(match[1].lower(), name) for name in _folders_in(root) if (match := _SPLIT_NAME.fullmatch(name))]
    for wanted in names:
        found = [name for kind, name in called if kind == wanted]
        if len(found) > 1 and wanted not in found:
            raise InputError(f"{root} holds {' and '.join(found)}; keep one of them there, or name its folder")
        if found:
            return root / (wanted if wanted in found else found[0])
    return None


def _folders_in(root: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not is_hidden(entry.name))


def _two_splits(root: Path, train_root: Path) -> tuple[Split, Split, tuple[str, ...]]:
    val_root = _split_folder(root, _VAL_NAMES)
    if val_root is None:
        raise InputError(f"{root} has {train_root.name}/ but none of {', '.join(f'{name}/' for name in _VAL_NAMES)}")
    if others := [name for name in _folders_in(root) if root / name not in (train_root, val_root)]:
        _log.warning(
            "warning: of %s only %s and %s are used, not %s", root, train_root.name, val_root.name, ", ".join(others)
        )
    folders, val_folders = _classes(train_root), _classes(val_root)
    if unknown := sorted(val_folders.keys() - folders.keys()):
        raise InputError(f"class {unknown[0]!r} is in {val_root} but not in {train_root}")
    if unseen := sorted(folders.keys() - val_folders.keys()):
        _log.warning("%s has no images of %s", val_root, ", ".join(unseen))
    classes = tuple(folders)
    return _split(train_root, "train", classes, folders), _split(val_root, "val", classes, val_folders), classes


def _one_tree(root: Path, seed: int) -> tuple[Split, Split, tuple[str, ...]]:
    folders = _classes(root)
    classes = tuple(folders)
    if _are_splits(folders):
        raise InputError(
            f"the folders of {root} look like splits, not classes: {', '.join(classes)}; call those with one folder a"
            " class in them train and val"
        )
    whole = _split(root, "train", classes, folders)
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


def _are_splits(folders: Folders) -> bool:
    """Whether some are called like a training split, some like another (`seg_train`, `seg_test`), and hold folders."""
    parts = {label: set(re.split(r"[ _-]", label.lower())) for label in folders}
    called = [[label for label, words in parts.items() if words & set(names)] for names in (_TRAIN_NAMES, _VAL_NAMES)]
    return all(called) and not any(entry.is_file() for label in chain(*called) for entry in folders[label].iterdir())


def _draw(image_id: str, seed: int) -> float:
    """A number in [0, 1) that depends on the image's path below the root and the seed only."""
    path = image_id.partition("/")[2]
    return int.from_bytes(hashlib.sha256(f"{seed}/{path}".encode()).digest()[:7], "big") / 2**56


def _classes(root: Path) -> Folders:
    """The folders of `root` by class; raises InputError if there are fewer than two, or two names look alike."""
    names = _folders_in(root)
    if len(names) < 2:
        found = f"only the folder {names[0]!r}" if names else "no folder"
        raise InputError(f"{root} holds {found}; it should hold one folder of images for each class")
    folders: Folders = {}
    for name in names:
        check_is_utf8(str(root / name))
        if (label := plain_name(name)) in folders:
            raise InputError(f"{root} holds two folders that both read {label!r}, written differently; make them one")
        folders[label] = root / name
    return dict(sorted(folders.items()))


def _split(root: Path, name: SplitName, classes: tuple[str, ...], folders: Folders) -> Split:
    paths: list[Path] = []
    labels: list[int] = []
    for (label, path), found in zip(folders.items(), images_below(list(folders.values())), strict=True):
        if not found:
            raise InputError(_no_image_in(path))
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
