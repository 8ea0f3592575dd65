"""Whether outputs stand for other classes than they are taken for: labels in another order than in training.

The guesses G (classes x outputs) tell: the output that is guessed most for a class stands for it if no other class has
the same. That is believed if it holds for most classes, gets many more images right, and is no chance: of two orders
that are equally good, m images that only one gets right differ by t or more with probability exp(-t^2 / 2m) at most
(Hoeffding 1963), and K classes have fewer than K^K orders.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeres.core.errors import few_of

_MOST_CLASSES = 2000  # of which the guesses are kept, 32 MB
_OF_CLASSES = 0.75  # that have an output of their own; of a damaged network few outputs are guessed for all
_LEAST_GAIN = 0.1  # of the images
_LEAST_SKILL, _SKILL_OF_FEW = 0.3, 0.8  # of the way from chance to all right; over sqrt(K), as chance orders few easily
_LEAST_NATS = 7.0  # a chance of one in a thousand


def doubts_of_order(predictions: NDArray[Any], classes: Sequence[str]) -> list[str]:
    """A warning if another order of the outputs is surely meant; `predictions` (n, 2): guess and label of each image.

    There is none where nothing is wrong, or where images are too few to tell.
    """
    n, k = len(predictions), len(classes)
    if not 1 < k <= _MOST_CLASSES:
        return []
    guesses = np.zeros((k, k), np.int64)
    np.add.at(guesses, (predictions[:, 1].astype(int), predictions[:, 0].astype(int)), 1)
    meant, has_images = guesses.argmax(1), guesses.any(1)
    is_told = has_images & (np.bincount(meant[has_images], minlength=k)[meant] == 1)
    now, then = guesses.diagonal(), np.where(is_told, guesses.max(1), 0)
    moved = is_told & (meant != np.arange(k))
    gain, differ = int((then - now).sum()), int((then + now)[~is_told | moved].sum())
    skill = (then.sum() / n - 1 / k) / (1 - 1 / k)
    is_good = skill >= max(_LEAST_SKILL, _SKILL_OF_FEW / math.sqrt(k))
    is_order = is_good and is_told.sum() >= _OF_CLASSES * has_images.sum()
    if not is_order or gain < _LEAST_GAIN * n or gain**2 < 2 * differ * (k * math.log(k) + _LEAST_NATS):
        return []
    swapped = few_of([f"{classes[meant[one]]} for {classes[one]}" for one in np.flatnonzero(moved).tolist()], 3)
    shares = (f"{100 * one.sum() / n:.2f} %" for one in (now, then))
    said = "{} are right, {} would be if the outputs were in another order of classes".format(*shares)
    return [f"{said} (mostly it guesses {swapped}): name them in the order of the outputs, import --labels FILE"]
