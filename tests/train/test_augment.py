from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.v2 import functional as TF

from edgeres.core.spec import ModelSpec, Preprocess
from edgeres.train.batches import augment_for, augmented, padding_of, resized_crop


def pixels(n: int, side: int, channels: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, side, side, channels), dtype=torch.uint8, generator=generator)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([8, 9, 32]), st.sampled_from([1, 3]), st.booleans())
def test_a_crop_is_torchvisions_pad_crop_and_flip(seed: int, side: int, channels: int, flip: bool) -> None:
    draws = np.random.default_rng(seed).random((4, 5))
    images, margin = pixels(4, side, channels), padding_of(side, side)
    ours = augmented(images, draws, "crop-flip" if flip else "crop")
    for image, u, result in zip(images.permute(0, 3, 1, 2), draws, ours.permute(0, 3, 1, 2), strict=True):
        top, left = (int(x * (2 * margin + 1)) for x in u[:2])
        expected = TF.crop(TF.pad(image, [margin]), top, left, side, side)
        if flip and u[2] < 0.5:
            expected = TF.horizontal_flip(expected)
        assert torch.equal(result, expected)


def test_the_margin_is_four_pixels_on_cifar_and_one_on_digits() -> None:
    assert [padding_of(side, side) for side in (32, 8, 4)] == [4, 1, 1]


def test_none_changes_nothing() -> None:
    images = pixels(2, 8, 3)
    assert torch.equal(augmented(images, np.random.default_rng(0).random((2, 5)), "none"), images)


def test_auto_mirrors_photographs_but_not_digits() -> None:
    assert [augment_for("auto", channels) for channels in (1, 3)] == ["crop", "crop-flip"]
    assert augment_for("none", 3) == "none"


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.lists(st.floats(0, 1, exclude_max=True), min_size=5, max_size=5),
)
def test_a_part_of_any_image_fills_the_input(width: int, height: int, draws: list[float]) -> None:
    spec = ModelSpec(
        family="resnet",
        variant="resnet18",
        num_classes=2,
        input_shape=(3, 6, 5),
        preprocess=Preprocess(mean=(0.5,), std=(0.5,), resize=8),
    )
    result = resized_crop(Image.new("RGB", (width, height), (9, 8, 7)), np.array(draws), "crop-flip", spec)
    assert result.shape == (6, 5, 3)
    assert (result == (9, 8, 7)).all()


def test_a_mirrored_part_is_the_part_mirrored() -> None:
    spec = ModelSpec(
        family="resnet",
        variant="resnet18",
        num_classes=2,
        input_shape=(3, 8, 8),
        preprocess=Preprocess(mean=(0.5,), std=(0.5,), resize=8),
    )
    image = Image.fromarray(pixels(1, 20, 3)[0].numpy())
    mirrored, straight = (resized_crop(image, np.array([0.3, 0.6, u, 0.5, 0.5]), "crop-flip", spec) for u in (0.1, 0.9))
    assert not np.array_equal(mirrored, straight)
    np.testing.assert_array_equal(mirrored, straight[:, ::-1])


@pytest.mark.parametrize("u", [0.0, 1 - 1e-9])
def test_the_whole_image_can_be_drawn(u: float) -> None:
    from edgeres.train.batches import _box

    assert _box((40, 40), np.array([u, u, 0, 1.0, 0.5])) == (0, 0, 40, 40)
