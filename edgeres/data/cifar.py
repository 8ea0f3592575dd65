"""CIFAR-10 and CIFAR-100 as torchvision stores them (it checks every file's MD5 before opening it)."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

from edgeres.core.errors import InputError, reason_of, require
from edgeres.data.dataset import Dataset, Request
from edgeres.data.split import split_from_arrays
from edgeres.models.family import CIFAR_PREPROCESS

_FOLDERS = {"cifar10": ("CIFAR10", "cifar-10-batches-py"), "cifar100": ("CIFAR100", "cifar-100-python")}


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
