from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edgeres.core.errors import InputError
from edgeres.core.spec import ModelSpec
from edgeres.data import Dataset, dataset_from
from edgeres.train.batches import Slice, batches_for, normalised_tensor
from edgeres.train.config import LoopConfig

CPU = torch.device("cpu")


def spec_of(dataset: Dataset, shape: tuple[int, int, int] | None = None) -> ModelSpec:
    return ModelSpec(
        family="resnet",
        variant="resnet20",
        num_classes=len(dataset.classes),
        input_shape=shape or dataset.input_shape,
        preprocess=dataset.preprocess,
    )


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return dataset_from("digits")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Dataset:
    """A streamed data set: sizes differ."""
    root: Path = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 1)):
        for label in ("a", "b"):
            for i in range(count):
                (root / split / label).mkdir(parents=True, exist_ok=True)
                noise = generator.integers(0, 256, (30 + i, 40, 3), np.uint8)
                Image.fromarray(noise).save(root / split / label / f"{i}.png")
    return dataset_from(f"folder:{root}")


def steps(dataset: Dataset, config: LoopConfig, parts: list[tuple[int, int]], first: int, last: int):
    data = batches_for(dataset.train, spec_of(dataset), config)
    runs = [list(data.from_step(first, last, Slice(*part, CPU))) for part in parts]
    return [tuple(torch.cat(pieces) for pieces in zip(*step, strict=True)) for step in zip(*runs, strict=True)]


@pytest.mark.parametrize(("name", "batch"), [("digits", 100), ("photos", 6)])
def test_the_slices_of_all_processes_are_the_batch_of_one(name: str, batch: int, request) -> None:
    dataset, config = request.getfixturevalue(name), LoopConfig(batch=batch)
    last = 2 * (len(dataset.train) // batch) + 1
    third = batch // 3
    shared = [(0, third), (third, batch)]
    alone, together = (steps(dataset, config, parts, 0, last) for parts in ([(0, batch)], shared))
    assert len(alone) == last
    for (images, labels), (images_2, labels_2) in zip(alone, together, strict=True):
        assert torch.equal(images, images_2)
        assert torch.equal(labels, labels_2)


@pytest.mark.parametrize(("name", "batch"), [("digits", 100), ("photos", 6)])
def test_a_step_is_the_same_wherever_the_run_begins(name: str, batch: int, request) -> None:
    dataset, config = request.getfixturevalue(name), LoopConfig(batch=batch)
    whole = steps(dataset, config, [(0, batch)], 0, 4)
    resumed = steps(dataset, config, [(0, batch)], 3, 4)
    assert torch.equal(whole[3][0], resumed[0][0])


def test_an_epoch_shows_no_image_twice_and_drops_the_incomplete_batch(digits: Dataset) -> None:
    data = batches_for(digits.train, spec_of(digits), LoopConfig(batch=100))
    part = Slice(0, 100, CPU)
    assert data.steps_per_epoch == 13
    first, second = ([data.places_at(step, part) for step in range(13 * e, 13 * e + 13)] for e in (0, 1))
    assert len(set(np.concatenate(first))) == 1300
    assert not np.array_equal(np.concatenate(first), np.concatenate(second))


def test_the_seed_decides_order_and_augmentation(digits: Dataset) -> None:
    first, again, other = (steps(digits, LoopConfig(batch=64, seed=seed), [(0, 64)], 0, 1)[0][0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", ["digits", "photos"])
def test_without_augmentation_training_sees_what_evaluation_sees(name: str, request) -> None:
    dataset = request.getfixturevalue(name)
    config = LoopConfig(batch=5, augment="none")
    data = batches_for(dataset.train, spec_of(dataset), config)
    part = Slice(0, 5, CPU)
    images, labels = next(data.from_step(0, 1, part))
    expected, expected_labels = next(dataset.train.subset(data.places_at(0, part)).batches(spec_of(dataset), 5))
    np.testing.assert_allclose(images.numpy(), expected, atol=1e-6)
    np.testing.assert_array_equal(labels.numpy(), expected_labels)


@pytest.mark.parametrize("fit", ["crop", "squash", "letterbox"])
def test_random_crops_are_of_what_the_network_is_shown(photos: Dataset, fit: str) -> None:
    """Images are noise 40 wide and about 30 high: only in a letterbox is there a border to see."""
    preprocess = photos.preprocess.model_copy(update={"fit": fit, "resize": 40 if fit == "crop" else None, "border": 0})
    spec = spec_of(photos, (3, 24, 24)).model_copy(update={"preprocess": preprocess})
    data = batches_for(photos.train, spec, LoopConfig(batch=16))
    images, _ = next(data.from_step(0, 1, Slice(0, 16, CPU)))
    assert images.shape == (16, 3, 24, 24)
    black = normalised_tensor(torch.zeros(1, 1, 1, 3, dtype=torch.uint8), preprocess)
    bordered = (images == black).all(dim=(1, 3)).any(dim=1)  # a whole row of it
    assert bool(bordered.any()) == (fit == "letterbox")


def test_a_batch_larger_than_the_data_is_refused(digits: Dataset) -> None:
    with pytest.raises(InputError, match="train has 1348 images, fewer than one batch of 4000"):
        batches_for(digits.train, spec_of(digits), LoopConfig(batch=4000))


def test_images_lie_channels_last(digits: Dataset) -> None:
    images = torch.zeros(2, 8, 8, 3, dtype=torch.uint8)
    preprocess = spec_of(digits).preprocess
    assert normalised_tensor(images, preprocess).is_contiguous(memory_format=torch.channels_last)
