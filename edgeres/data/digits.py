"""Scikit-learn's handwritten digits: 1,797 real scans of 8x8 pixels in 17 grey levels.

Source: Alpaydin & Kaynak 1998, Optical Recognition of Handwritten Digits, UCI repository (the test set).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from edgeres.core.errors import require
from edgeres.core.spec import Preprocess
from edgeres.data.dataset import Dataset, Request
from edgeres.data.images import Pixels
from edgeres.data.split import Labels, split_from_arrays

VAL_FRACTION = 0.25
# of all pixels: mean 0.3053, standard deviation 0.3759
PREPROCESS = Preprocess(mean=(0.305,), std=(0.376,), resize=None)
_LEVELS = 16
_MAX_BYTE = 255


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
