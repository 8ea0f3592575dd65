from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeres.core.artifacts import OnnxModel
from edgeres.data import Split, dataset_from, split_from_files
from edgeres.data.split import shared_images


def files_of(folder: Path, name: str, seeds: list[int]) -> Split:
    """One PNG of noise for each seed."""
    (folder / name).mkdir(parents=True)
    paths = [folder / name / f"{place}.png" for place in range(len(seeds))]
    for path, seed in zip(paths, seeds, strict=True):
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)).save(path)
    return split_from_files("train", paths, [0] * len(paths), [f"{name}/{path.name}" for path in paths])


def test_files_with_the_same_bytes_are_found_whatever_they_are_called(tmp_path):
    train, val = files_of(tmp_path, "train", [0, 1, 2, 3]), files_of(tmp_path, "val", [9, 2, 8, 0])
    assert shared_images(train, val) == {"train/0.png": "val/3.png", "train/2.png": "val/1.png"}


def test_disjoint_files_share_nothing(tmp_path):
    assert shared_images(files_of(tmp_path, "train", [0, 1]), files_of(tmp_path, "val", [2, 3])) == {}


def test_images_without_files_are_compared_by_their_pixels():
    digits = dataset_from("digits")
    chosen = digits.val.sample(20, 0)
    assert set(chosen.ids) <= set(shared_images(chosen, digits.val))


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_streamed_images_are_those_of_the_split(batch, onnx_of):
    model: OnnxModel = onnx_of("resnet8")
    split = dataset_from("digits").train.sample(20, 0)
    expected = np.concatenate([images for images, _ in split.batches(model.spec, 20)])
    parts = [images for images, _ in split.streamed(model.spec, batch)]
    assert [len(part) for part in parts[:-1]] == [batch] * (len(parts) - 1)
    assert np.array_equal(np.concatenate(parts), expected)
