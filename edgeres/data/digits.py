"""Scikit-learn's handwritten digits: 1,797 real scans of 8x8 pixels in 17 grey levels.

Source: Alpaydin & Kaynak 1998, Optical Recognition of Handwritten Digits, UCI repository (the test set).
"""

from __future__ import annotations

import numpy as np

from edgeres.core.errors import require
from edgeres.core.spec import Preprocess
from edgeres.data.dataset import Dataset, Request
from edgeres.data.split import split_from_arrays

VAL_FRACTION = 0.25
# of all pixels: mean 0.3053, standard deviation 0.3759
PREPROCESS = Preprocess(mean=(0.305,), std=(0.376,), resize=None)
_LEVELS = 16
_MAX_BYTE = 255


def digits(request: Request) -> Dataset:
    """The digits, a quarter of each class set aside by the seed."""
    bundle = require("sklearn.datasets", "data").load_digits()
    images = np.rint(bundle.images * (_MAX_BYTE / _LEVELS)).astype(np.uint8)
    ids = [f"digits/{i}" for i in range(len(images))]
    train, val = split_from_arrays("train", images, bundle.target, ids).halves(VAL_FRACTION, request.seed)
    return Dataset("digits", tuple("0123456789"), train, val.named("val"), PREPROCESS, (1, 8, 8))
