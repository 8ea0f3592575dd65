from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeres.core.errors import InputError
from edgeres.data import dataset_from


def test_absent_files_are_answered_with_where_they_belong(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("EDGERES_DATA", str(tmp_path))
    with pytest.raises(InputError, match=r"cifar10 is not in .*cifar-10-batches-py.* --download"):
        dataset_from("cifar10")


def test_being_offline_is_said_in_one_line(tmp_path: Path, monkeypatch) -> None:
    from torchvision import datasets

    def unreachable(*_args: object, **_options: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setenv("EDGERES_DATA", str(tmp_path))
    monkeypatch.setattr(datasets.cifar, "download_and_extract_archive", unreachable)
    with pytest.raises(InputError, match=r"cannot download cifar100 .* is this machine online"):
        dataset_from("cifar100", download=True)


def test_torchvisions_arrays_become_the_two_splits(monkeypatch) -> None:
    from torchvision import datasets

    class Fake:
        classes = ("cat", "dog")

        def __init__(self, *, root: str, train: bool, download: bool) -> None:
            self.data = np.full((4 if train else 2, 32, 32, 3), 7, np.uint8)
            self.targets = [0, 1, 0, 1] if train else [1, 0]

    monkeypatch.setattr(datasets, "CIFAR10", Fake)
    found = dataset_from("cifar10")
    assert (len(found.train), found.val.labels.tolist()) == (4, [1, 0])
    assert found.val.ids == ("val/0", "val/1")
