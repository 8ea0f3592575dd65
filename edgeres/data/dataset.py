"""A named data set: classes, two splits, and the preprocessing a model trained on it starts from.

digits               scikit-learn's handwritten digits, 8x8, inside the package
cifar10, cifar100    the usual files, from $EDGERES_DATA or ~/.cache/edgeres
folder:PATH          PATH/train and PATH/val with one folder a class, or PATH with one folder a class
images:DIR           the images below DIR, without labels
csv:FILE             path,label rows, paths relative to the file
npy:FILE, npz:FILE   arrays, labels in an npz
package.module:function   your own function () -> Dataset
"""

from __future__ import annotations

import csv
import hashlib
import logging
import os
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from edgeres.core.errors import InputError, did_you_mean, few_of
from edgeres.core.names import DATA_NAMES, FILES_OF_DATA, canonical_data_name, plain_name, resolve, result_of, with_code
from edgeres.core.spec import ModelSpec, Preprocess
from edgeres.data.pixels import FileSource
from edgeres.data.split import UNLABELLED, Split, say_once
from edgeres.data.tree import FilesBelow

DATASETS = {
    "digits": "edgeres.data.known:digits",
    "cifar10": "edgeres.data.known:cifar10",
    "cifar100": "edgeres.data.known:cifar100",
    "folder": "edgeres.data.folder:folder",
    "images": "edgeres.data.folder:images",
    "csv": "edgeres.data.csv_table:listed",
    "npy": "edgeres.data.arrays:npy",
    "npz": "edgeres.data.arrays:npz",
}
_FOLDERS = frozenset({"folder", "images"})
_TABLES = frozenset({"csv"})  # their cells name files, which belong to the data set as well
_UNSAID = (
    "does not say how an image becomes its input; add what it was trained with, as in --mean 0.485,0.456,0.406 --std"
    " 0.229,0.224,0.225 --resize 256, or --like FILE, a model of edgeres fed alike"
)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What a maker in DATASETS is given: `argument` is what follows the colon."""

    argument: str = ""
    download: bool = False
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Dataset:
    """`preprocess` and `input_shape` (C, H, W) are what a new model gets; an existing one keeps its own.

    Without `classes` no image has a label. `train` is empty where there is only something to judge on. `numbered`:
    labels are places among a network's outputs, whatever these are called.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    val: Split
    preprocess: Preprocess
    input_shape: tuple[int, int, int]
    numbered: bool = False

    def __post_init__(self) -> None:
        """Raises InputError if nothing is there to judge on or a label has no class."""
        if len(self.val) == 0:
            raise InputError(f"{self.name}: {self.val.name} has no images")
        for split in (one for one in (self.train, self.val) if len(one)):
            if not self.classes and (split.labels == UNLABELLED).all():
                continue
            low, high = int(split.labels.min()), int(split.labels.max())
            if low < 0 or high >= len(self.classes):
                wrong, known = low if low < 0 else high, len(self.classes)
                raise InputError(f"{self.name}: {split.name} has label {wrong}, there are {known} classes")


def check_data_name(name: str) -> None:
    """Raises InputError if there cannot be a data set called `name`; opens none."""
    kind, _, argument = name.partition(":")
    if kind not in DATASETS and not argument:
        raise InputError(f"unknown data set {name!r}{_meant(name)} (known: {DATA_NAMES})")
    if kind in DATASETS and bool(argument) != (kind in FILES_OF_DATA):
        raise InputError(f"data set {name!r} should read {FILES_OF_DATA.get(kind, kind)}")
    if kind not in FILES_OF_DATA:
        return
    path = Path(argument).expanduser()
    if not path.exists():
        raise InputError(f"{path} does not exist; say where the images are now: --data {FILES_OF_DATA[kind]}")
    if kind in _FOLDERS and not path.is_dir():
        raise InputError(f"{path} is not a folder")
    if kind not in _FOLDERS and not path.is_file():
        raise InputError(f"{path} is a folder; {FILES_OF_DATA[kind]} takes a file, images:DIR a folder of images")


def _meant(name: str) -> str:
    """`; did you mean X?`, X the same path with its kind if there is something of that name."""
    path = Path(name).expanduser()
    kind = "folder" if path.is_dir() else path.suffix.lower().removeprefix(".")
    if path.exists() and kind in FILES_OF_DATA:
        return f"; did you mean {kind}:{name}?"
    return did_you_mean(name, DATASETS)


def dataset_from(name: str, *, download: bool = False, seed: int = 0, exif: bool = False) -> Dataset:
    """The data set called `name`; says how many images carry an EXIF rotation that will not be followed.

    `seed` decides the split of sets that come in one piece (digits, one tree of folders): keep it the same in
    every stage of a model, or training images end up in its validation split. Raises InputError if the set is
    unknown or cannot be read.
    """
    check_data_name(name)
    kind, _, argument = canonical_data_name(name).partition(":")
    if kind in DATASETS:
        dataset: Dataset = resolve(DATASETS[kind])(Request(argument, download, seed))
    elif not isinstance(dataset := result_of(name, "data set"), Dataset):
        raise InputError(f"{name} must return an edgeres.data.Dataset, got {type(dataset).__name__}")
    _say_turned(dataset, exif=exif)
    return dataset


def _say_turned(dataset: Dataset, *, exif: bool) -> None:
    sources = {id(split.source): split.source for split in (dataset.train, dataset.val)}.values()
    counts = [source.turned for source in sources if isinstance(source, FileSource)]
    turned, seen = (sum(column) for column in zip(*counts, strict=True)) if counts else (0, 0)
    if turned and exif:
        _log.info("%d of %d images looked at carry an EXIF rotation and are turned upright", turned, seen)
    elif turned:
        _log.warning(
            "warning: %d of %d images looked at carry an EXIF rotation, which is not followed (nor does torchvision);"
            " for a network that was trained on them upright: edgeres import FILE --exif",
            *(turned, seen),
        )


def dataset_for(spec: ModelSpec, name: str, *, download: bool = False, seed: int = 0) -> Dataset:
    """The data set with labels numbered as in `spec`.

    Class names in another order, or not all of them, are renumbered, names that look alike are one; a model without
    class names is checked for their number only, images without labels for nothing. Raises InputError if the number
    differs, if a name is not known, or if how it is fed was never said.
    """
    if not spec.preprocess.is_known:
        raise InputError(f"{spec.variant} {_UNSAID}")
    dataset = dataset_from(name, download=download, seed=seed, exif=spec.preprocess.exif)
    if spec.task != "classes":
        train, val = (replace(one, labels=np.full(len(one), UNLABELLED)) for one in (dataset.train, dataset.val))
        return replace(dataset, classes=(), train=train, val=val, numbered=False)
    if not dataset.classes:
        return dataset
    if dataset.numbered:  # by the network's outputs, of which not every one need occur
        if (labels := len(dataset.classes)) > (outputs := spec.num_classes):
            raise InputError(
                f"{dataset.name} has label {labels - 1} and the model has {outputs} outputs, 0 to {outputs - 1}"
            )
        return replace(dataset, classes=spec.classes or tuple(map(str, range(spec.num_classes))))
    if not spec.classes and len(dataset.classes) != spec.num_classes:
        raise InputError(
            f"{name} has {len(dataset.classes)} classes ({few_of(dataset.classes)}) and the model has"
            f" {spec.num_classes} outputs; a network is judged by one output a class: name all, import --labels FILE,"
            " where some have no images (of an embedding, say --task embedding there)"
        )
    if spec.classes in ((), dataset.classes):
        return dataset
    numbers = {plain_name(label): number for number, label in enumerate(spec.classes)}
    if missing := [label for label in dataset.classes if plain_name(label) not in numbers]:
        raise InputError(
            f"{name} has classes the model does not know: {few_of(missing)} (it has {few_of(spec.classes)})"
        )
    new = np.asarray([numbers[plain_name(label)] for label in dataset.classes])
    if absent := [label for number, label in enumerate(spec.classes) if number not in new]:
        say_once(f"{name} has no images of {few_of(absent)}, which the network knows")
    train, val = (replace(split, labels=new[split.labels]) for split in (dataset.train, dataset.val))
    return replace(dataset, classes=spec.classes, train=train, val=val)


@lru_cache(maxsize=8)
def data_fingerprint(name: str) -> str:
    """Changes when the data set called `name` does: for files sha256 of every one's path, size and date.

    Data sets that come with a package are taken to be what their name says, the user's own functions their code.
    """
    kind, _, argument = name.partition(":")
    if kind not in FILES_OF_DATA:
        return with_code(name)
    root = Path(argument).expanduser().resolve()
    if kind not in _FOLDERS:
        return _fingerprint_of(root, is_table=kind in _TABLES)
    walk = FilesBelow([root])
    lines = [f"{os.path.relpath(path, root)}\tis\t{os.path.relpath(real, root)}" for path, real in walk.again]
    for path in map(Path, (*walk.files[0], *walk.links[0])):
        if path.is_file():
            status = path.stat()
            lines.append(f"{path.relative_to(root).as_posix()}\t{status.st_size}\t{status.st_mtime_ns}")
    lines.sort()
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()


def _fingerprint_of(file: Path, *, is_table: bool) -> str:
    """Of one file, and of those that its cells name."""
    named: list[Path] = []
    if is_table:
        with file.open(encoding="utf-8-sig", errors="replace", newline="") as table:
            named = [file.parent / Path(cell.strip()).expanduser() for line in csv.reader(table) for cell in line]
    found = [(path, path.stat()) for path in (file, *named) if path.is_file()]
    lines = sorted(f"{path}\t{status.st_size}\t{status.st_mtime_ns}" for path, status in found)
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()
