"""A spec that cannot be built is refused where it is made, with the value seen."""

from __future__ import annotations

import math

import pytest

from edgeres.core.errors import InputError
from edgeres.core.spec import ModelSpec, Preprocess

GREY = Preprocess(mean=(0.3,), std=(0.4,))


@pytest.mark.parametrize("shape", [(1, 0, 8), (1, 8, -8), (0, 8, 8)])
def test_an_input_shape_that_is_not_positive_is_refused(shape):
    with pytest.raises(InputError, match=r"input shape \(C, H, W\) must be positive, got"):
        ModelSpec(family="resnet", variant="resnet8", num_classes=10, input_shape=shape, preprocess=GREY)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_a_mean_or_std_that_is_no_number_is_refused(wrong):
    with pytest.raises(InputError, match="finite number"):
        Preprocess(mean=(wrong,), std=(0.4,))
    with pytest.raises(InputError, match="finite number"):
        Preprocess(mean=(0.3,), std=(wrong,))


def test_a_mean_of_pixels_up_to_255_is_refused():
    with pytest.raises(InputError, match="divide by 255"):
        Preprocess(mean=(125.3,), std=(63.0,))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"preprocess": Preprocess(mean=(0.3, 0.3), std=(0.4, 0.4))}, "mean has 2 values for 1 channels"),
        ({"classes": ("cat",)}, "1 class names for 10 classes"),
    ],
)
def test_channels_and_classes_have_to_fit(wrong, said):
    right = {"family": "resnet", "variant": "resnet8", "num_classes": 10, "input_shape": (1, 8, 8), "preprocess": GREY}
    assert ModelSpec(**right)
    with pytest.raises(InputError, match=said):
        ModelSpec(**{**right, **wrong})
