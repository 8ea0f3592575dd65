from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeres.core.errors import InputError
from edgeres.core.spec import ModelSpec, Preprocess
from edgeres.data.split import Split, split_from_arrays

labels_of_some_images = st.lists(st.integers(0, 4), min_size=2, max_size=80)


def split_with(labels: list[int]) -> Split:
    images = np.arange(len(labels), dtype=np.uint8)[:, None, None].repeat(4, 1).repeat(4, 2)
    return split_from_arrays("train", images, labels)


def spec_for(side: int, channels: int = 1, resize: int | None = None) -> ModelSpec:
    return ModelSpec(
        family="resnet",
        variant="resnet20",
        num_classes=5,
        input_shape=(channels, side, side),
        preprocess=Preprocess(mean=(0.5,) * channels, std=(0.25,) * channels, resize=resize),
    )


@given(labels_of_some_images, st.data())
def test_a_sample_has_each_class_in_its_share(labels, data) -> None:
    split = split_with(labels)
    n = data.draw(st.integers(1, len(labels)))
    sample = split.sample(n, seed=1)
    assert len(set(sample.ids)) == len(sample) == n
    exact = np.bincount(labels, minlength=5) * n / len(labels)
    assert (np.abs(np.bincount(sample.labels, minlength=5) - exact) < 1).all()


@given(labels_of_some_images, st.floats(0.05, 0.95), st.integers(0, 9))
def test_halves_are_disjoint_and_whole(labels, fraction, seed) -> None:
    split = split_with(labels)
    if round(fraction * len(labels)) in {0, len(labels)}:
        with pytest.raises(InputError, match="cannot set aside"):
            split.halves(fraction, seed)
        return
    rest, held_out = split.halves(fraction, seed)
    assert sorted([*rest.ids, *held_out.ids]) == sorted(split.ids)
    assert len(held_out) == round(fraction * len(labels))
    assert held_out.ids == split.halves(fraction, seed)[1].ids


def test_a_subset_keeps_images_labels_and_ids_together() -> None:
    split = split_with([0, 1, 2, 3, 4, 0]).subset([4, 1, 1]).subset([2, 0])
    assert split.ids == ("train/1", "train/4")
    images, labels = next(split.batches(spec_for(4), 8))
    assert labels.tolist() == [1, 4]
    np.testing.assert_allclose(images[:, 0, 0, 0], (np.array([1, 4]) / 255 - 0.5) / 0.25, rtol=1e-6)


def test_at_most_so_many_is_a_sample_or_all_in_order() -> None:
    split = split_with([0, 1] * 4)
    assert [len(split.at_most(n, 0)) for n in (None, 9, 8, 4)] == [8, 8, 8, 4]
    assert split.at_most(8, 0) is split


def test_too_large_a_sample_is_refused() -> None:
    with pytest.raises(InputError, match="cannot take 7 images from train, which has 2"):
        split_with([0, 1]).sample(7, seed=0)


def test_batches_cover_the_split_in_order() -> None:
    split = split_with([0, 1, 2, 3, 4])
    sizes = [(images.shape, images.dtype, labels.dtype) for images, labels in split.batches(spec_for(4), 2)]
    assert sizes == [((n, 1, 4, 4), np.float32, np.int64) for n in (2, 2, 1)]
    assert np.concatenate([labels for _, labels in split.batches(spec_for(4), 2)]).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("most", "sizes"), [(3, [3, 3, 1]), (7, [7]), (1, [1] * 7)])
def test_large_images_are_shown_fewer_at_a_time(monkeypatch, most, sizes) -> None:
    monkeypatch.setattr("edgeres.core.spec._MOST_PIXELS_AT_ONCE", 16 * most)
    split = split_with([0, 1, 2, 3, 4, 0, 1])
    shown = list(split.shown(spec_for(4), 250, "eval"))
    assert [len(images) for images, _ in shown] == sizes
    whole, labels = next(split.batches(spec_for(4), 7))
    np.testing.assert_array_equal(np.concatenate([images for images, _ in shown]), whole)
    assert np.concatenate([y for _, y in shown]).tolist() == labels.tolist()


def test_a_size_the_model_does_not_take_is_named() -> None:
    with pytest.raises(InputError, match=r"train image 0 is 4x4 pixels, resnet20 takes 8x8"):
        next(split_with([0, 1]).batches(spec_for(8), 2))


def test_grey_images_feed_a_colour_model() -> None:
    grey, _ = next(split_with([0, 1]).batches(spec_for(4), 2))
    colour, _ = next(split_with([0, 1]).batches(spec_for(4, channels=3), 2))
    np.testing.assert_array_equal(colour, grey.repeat(3, 1))


def test_small_images_are_resized_if_the_model_says_so() -> None:
    images, _ = next(split_with([0, 1]).batches(spec_for(6, resize=8), 2))
    assert images.shape == (2, 1, 6, 6)
    np.testing.assert_allclose(images[1], (1 / 255 - 0.5) / 0.25, rtol=1e-6)
