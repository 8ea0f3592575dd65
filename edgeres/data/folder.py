"""Folders of images, one folder a class: the layout torchvision's ImageFolder made usual.

    PATH/train/CLASS/*.jpg and PATH/val/CLASS/*.jpg   (or Training, training_set; Valid, validation, Test, test_set ...)
    PATH/CLASS/*.jpg                                  (about a fifth of each class is set aside by the seed)
    PATH/val/CLASS/*.jpg alone                        (to judge on, nothing else)

`images:` takes all images below a folder, flat or nested, and no labels; train/ and val/ are its splits if both are
there.

In the second form an image's name alone decides where it goes.

Classes are numbered in alphabetical order of their names, composed (NFC). Files are found in sub-folders too; hidden
ones are left out. Links are followed; a file that several lead to counts once in its split.
"""

from __future__ import annotations

import logging
import os
import re
from itertools import chain
from pathlib import Path

from edgeres.core.errors import InputError
from edgeres.core.names import plain_name
from edgeres.core.spec import Preprocess
from edgeres.data.dataset import Dataset, Request
from edgeres.data.images import SUFFIXES
from edgeres.data.split import UNLABELLED, Split, SplitName, drawn_apart, split_from_files
from edgeres.data.tree import check_is_utf8, images_below, is_hidden
from edgeres.models.family import CIFAR_PREPROCESS, IMAGENET_PREPROCESS

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
    if train is None and [_split_folder(root, _VAL_NAMES)] == [root / name for name in _folders_in(root)]:
        return dataset_of(f"folder:{request.argument}", *_only_val(root))
    splits = _two_splits(root, train) if train else _one_tree(root, request.seed)
    return dataset_of(f"folder:{request.argument}", *splits)


def images(request: Request) -> Dataset:
    """The images below the path, without labels; raises InputError naming the folder if it holds none."""
    root = Path(request.argument).expanduser()
    train_root, val_root = (_split_folder(root, names) for names in (_TRAIN_NAMES, _VAL_NAMES))
    if train_root and val_root:
        train, val = _split(train_root, "train", (), {"": train_root}), _split(val_root, "val", (), {"": val_root})
    else:
        _refuse_a_split(root)
        train, val = drawn_apart(_split(root, "train", (), {"": root}), (), request.seed, str(root))
    return dataset_of(f"images:{request.argument}", train, val)


def dataset_of(
    name: str, train: Split, val: Split, classes: tuple[str, ...] = (), *, numbered: bool = False
) -> Dataset:
    """The data set of the two; a new network takes small images of one size as they are, others cropped to 224."""
    preprocess, shape = _input_of(train if len(train) else val)
    return Dataset(name, classes, train, val, preprocess, shape, numbered)


def _only_val(root: Path) -> tuple[Split, Split, tuple[str, ...]]:
    """(no images to train on, those to judge on, their classes)."""
    val_root = _split_folder(root, _VAL_NAMES)
    assert val_root is not None
    folders = _classes(val_root)
    val = _split(val_root, "val", tuple(folders), folders)
    _log.info("%s holds %s/ alone: to judge on, nothing can be chosen or trained on it", root, val_root.name)
    return val.subset([]).named("train"), val, tuple(folders)


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
    return *drawn_apart(whole, classes, seed, str(root)), classes


def _are_splits(folders: Folders) -> bool:
    """Whether some are called like a training split, some like another (`seg_train`, `seg_test`), and hold folders."""
    parts = {label: set(re.split(r"[ _-]", label.lower())) for label in folders}
    called = [[label for label, words in parts.items() if words & set(names)] for names in (_TRAIN_NAMES, _VAL_NAMES)]
    return all(called) and not any(entry.is_file() for label in chain(*called) for entry in folders[label].iterdir())


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
            where = f"class folder {path}" if label else str(path)
            if label and path.is_symlink():
                raise InputError(f"{where} is a link to {path.readlink()}, which adds no image to the other classes")
            raise InputError(f"{where} holds no image ({', '.join(sorted(SUFFIXES))})")
        paths += found
        labels += [classes.index(label) if classes else UNLABELLED] * len(found)
    return split_from_files(name, paths, labels, [f"{root.name}/{path.relative_to(root).as_posix()}" for path in paths])


def _input_of(train: Split) -> tuple[Preprocess, tuple[int, int, int]]:
    """Small images of one size as they are, all others resized to 256 and cropped to 224."""
    shape = train.source.shape
    if shape is None or max(shape) > _SMALL_SIDE:
        return IMAGENET_PREPROCESS, (3, 224, 224)
    height, width, channels = shape
    return _GREY_PREPROCESS if channels == 1 else CIFAR_PREPROCESS, (channels, height, width)
