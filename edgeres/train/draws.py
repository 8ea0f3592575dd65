"""Every random choice about images as a pure function of (seed, step, place in the global batch).

Nothing has to be saved to resume, and each process makes its own slice of what one alone would make.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

DRAWS_AN_IMAGE = 5
_ORDER, _IMAGES, _TORCH = range(3)  # keeps the three streams of one seed apart
_SEED_BITS = 63


def order_of(epoch: int, *, n: int, seed: int) -> NDArray[np.int64]:
    """The order of the n images in the epoch."""
    return np.random.default_rng((seed, _ORDER, epoch)).permutation(n)


def draws_at(step: int, *, batch: int, seed: int) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1), (batch, 5): a row decides one image's augmentation."""
    return np.random.default_rng((seed, _IMAGES, step)).random((batch, DRAWS_AN_IMAGE))


def torch_seed_at(step: int, *, process: int, seed: int) -> int:
    """Seed of torch's generators at a step: for dropout-like choices inside the network."""
    words = np.random.SeedSequence((seed, _TORCH, step, process)).generate_state(1, np.uint64)
    return int(words[0]) >> (64 - _SEED_BITS)
