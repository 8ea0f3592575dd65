"""Whether outputs stand for other classes than they are taken for: labels in another order than in training.

Of the guesses each class is given an output of its own, the most frequent pair of class and output first. That order is
believed if it gets many more images right, is well above what one guess for all would get, and is no chance: of two
orders that are equally good, m images that only one gets right differ by t or more with probability exp(-t^2 / 2m) at
most (Hoeffding 1963), and K classes have fewer than K^K orders.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeres.core.errors import few_of

_MOST_CLASSES = 2000  # of which the guesses are kept, 32 MB
_LEAST_GAIN = 0.1  # of the images
_LEAST_SKILL, _SKILL_OF_FEW = 0.3, 1.4  # of the way from one guess to all right; over K, as few are easily mixed up
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
    meant = _assigned(guesses)
    now, then = guesses.diagonal(), np.where(meant >= 0, guesses[np.arange(k), meant], 0)
    gain, differ = int((then - now).sum()), int((then + now)[meant != np.arange(k)].sum())
    one_guess = guesses.sum(1).max()
    is_good = then.sum() - one_guess >= max(_LEAST_SKILL, _SKILL_OF_FEW / k) * (n - one_guess)
    if not is_good or gain < _LEAST_GAIN * n or gain**2 < 2 * differ * (k * math.log(k) + _LEAST_NATS):
        return []
    better = np.argsort(now - then, kind="stable")[: (then > now).sum()].tolist()
    swapped = few_of([f"{classes[int(meant[one])]} for {classes[one]}" for one in better], 3)
    shares = (f"{100 * one.sum() / n:.2f} %" for one in (now, then))
    said = "{} are right, {} would be if outputs stood for other classes".format(*shares)
    return [f"{said} ({swapped}): name them in the order of the outputs, import --labels FILE"]


def _assigned(guesses: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of each class the output that is its own, -1 where none that is left was guessed."""
    cells = np.flatnonzero(guesses)
    found, taken = dict[int, int](), set[int]()
    for cell in cells[np.argsort(-guesses.flat[cells], kind="stable")].tolist():
        label, guess = divmod(cell, len(guesses))
        if label not in found and guess not in taken:
            found[label] = guess
            taken.add(guess)
    return np.array([found.get(label, -1) for label in range(len(guesses))])
