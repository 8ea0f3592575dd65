"""Data sets that are known by name.

digits              scikit-learn's, 1,797 real scans of 8x8 pixels in 17 grey levels
cifar10, cifar100   as torchvision stores them (it checks every file's MD5 before opening it)

Source: Alpaydin & Kaynak 1998, Optical Recognition of Handwritten Digits, UCI repository (the test set).
"""

from __future__ import annotations

import os
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from edgeres.core.errors import InputError, reason_of, require
from edgeres.core.spec import Preprocess
from edgeres.data.dataset import Dataset, Request
from edgeres.data.images import Pixels
from edgeres.data.split import Labels, split_from_arrays
from edgeres.models.family import CIFAR_PREPROCESS

VAL_FRACTION = 0.25
# of all pixels: mean 0.3053, standard deviation 0.3759
PREPROCESS = Preprocess(mean=(0.305,), std=(0.376,), resize=None)
_LEVELS = 16
_MAX_BYTE = 255
_FOLDERS = {"cifar10": ("CIFAR10", "cifar-10-batches-py"), "cifar100": ("CIFAR100", "cifar-100-python")}


def digits(request: Request) -> Dataset:
    """The digits, a quarter of each class set aside by the seed."""
    images, labels = _scans()
    ids = [f"digits/{i}" for i in range(len(images))]
    train, val = split_from_arrays("train", images, labels, ids).halves(VAL_FRACTION, request.seed)
    return Dataset("digits", tuple("0123456789"), train, val.named("val"), PREPROCESS, (1, 8, 8))


@lru_cache
def _scans() -> tuple[Pixels, Labels]:
    """Read once in a process: the file is a table of numbers in letters."""
    bundle = require("sklearn.datasets", "data").load_digits()
    return np.rint(bundle.images * (_MAX_BYTE / _LEVELS)).astype(np.uint8), bundle.target


def _cifar(name: str, request: Request) -> Dataset:
    train, val = (_part(name, is_train=is_train, download=request.download) for is_train in (True, False))
    return Dataset(
        name,
        tuple(train.classes),
        split_from_arrays("train", train.data, train.targets),
        split_from_arrays("val", val.data, val.targets),
        CIFAR_PREPROCESS,
        (3, 32, 32),
    )


def _part(name: str, *, is_train: bool, download: bool) -> Any:
    kind, folder = _FOLDERS[name]
    maker = getattr(require("torchvision.datasets", "train"), kind)
    root = Path(os.environ.get("EDGERES_DATA") or Path.home() / ".cache" / "edgeres")
    try:
        return maker(root=str(root), train=is_train, download=download)
    except RuntimeError as err:
        raise InputError(
            f"{name} is not in {root / folder}, or damaged; set EDGERES_DATA to the folder that holds"
            f" {folder}, or fetch it with --download"
        ) from err
    except OSError as err:
        raise InputError(f"cannot download {name} to {root}: {reason_of(err)}; is this machine online?") from err


cifar10 = partial(_cifar, "cifar10")  # 50,000 and 10,000 images of 32x32 in 10 classes
cifar100 = partial(_cifar, "cifar100")  # as many in 100 classes
