"""How far one network's outputs are from another's on the same images: by what they are for, without labels.

    kl        sum_k p(k) log(p(k) / q(k))     scores of classes, in nats; p and q are softmax of whole and changed
    cosine    1 - a b / (|a| |b|)             an embedding
    error     |a - b|^2 / mean |a|^2          other tensors
    centred   |a - b|^2 / mean |a - m|^2      scores whose first guess is nearly always the same; m: mean of a

Of several outputs, which stand side by side in (N, K), the error is the mean of each one's own: a small map counts as
much as a large one, and one of small numbers as much as one of large ones.

a is the whole network's, means go over images; smaller is nearer, 0 the same.

Where a stage keeps what the whole network gives for many images, MOST_KEPT numbers of each are the most: of outputs
that have more each one too large is stood for by places drawn from it once, by a seed, alike in all images and
networks. As they are a random part of it, what they say of its relative error is an unbiased estimate.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import accumulate
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeres.core.spec import ModelSpec, Task

Values = TypeVar("Values", bound=Any)  # an array of NumPy or a tensor of torch

Measure = Literal["kl", "cosine", "error", "centred"]
MEASURE_OF: dict[Task, Measure] = {"classes": "kl", "embedding": "cosine", "tensors": "error"}
NAME_OF: dict[Measure, str] = {
    "kl": "KL",
    "cosine": "1 - cosine",
    "error": "relative error",
    "centred": "relative error of the centred outputs",
}
OF_CLASSES = frozenset[Measure]({"kl", "centred"})  # the first of the scores is a guess, so points are of accuracy
# what a hundredth of what is lost is called, where a report has points of accuracy
LOST_OF: dict[Measure, str] = {
    "kl": "points of top-1",
    "cosine": "hundredths of cosine",
    "error": "% of relative error",
    "centred": "% of relative error",
}
MOST_KEPT = 1 << 14  # numbers of an image's outputs: 64 KiB
_SEED = 0
_LOGITS_RANK = 2
_LEAST_LARGEST = 1e-2  # a sigmoid near 0 is rounded as one near 1 is, by 1e-7, in a whole map of such values too


def difference_of(actual: Sequence[NDArray[Any]], expected: Sequence[NDArray[Any]]) -> float:
    """Largest deviation of a number over the largest expected, which counts as 0.01 at least; the worst output's."""
    pairs = ((one.reshape(wanted.shape), wanted) for one, wanted in zip(actual, expected, strict=True))
    return max(float(np.abs(one - wanted).max() / max(np.abs(wanted).max(), _LEAST_LARGEST)) for one, wanted in pairs)


def kept(outputs: Values, sizes: Sequence[int] = ()) -> Values:
    """Of outputs (N, ...), several by their `sizes`, what stands for them where many images' are kept.

    Outputs that fit are left as they are, rows of scores of classes always.
    """
    if outputs.ndim == _LOGITS_RANK and not sizes:
        return outputs
    flat = outputs.reshape(len(outputs), -1)
    places = _places(tuple(sizes) or (flat.shape[1],))
    if places is None or flat.shape[1] == len(places):
        return outputs
    found: Values = flat[:, places] if sizes else flat[:, None, places]  # which is no row of scores
    return found


def kept_notes(spec: ModelSpec) -> list[str]:
    """What there is to say where not all that a network gives for an image is `kept`."""
    if spec.task != "tensors" or (places := _places(spec.sizes or (spec.num_classes,))) is None:
        return []
    some = f"{len(places):,} of the {spec.num_classes:,} numbers that it gives for an image, drawn by a seed"
    return [f"maps and several outputs were compared by {some}, to bound memory; eval and agree compare all"]


def _kept_sizes(sizes: Sequence[int]) -> tuple[int, ...]:
    share = MOST_KEPT // len(sizes) if sum(sizes) > MOST_KEPT else max(sizes)
    return tuple(min(size, share) for size in sizes)


@cache
def _places(sizes: tuple[int, ...]) -> NDArray[np.int64] | None:
    """Where the numbers that are kept stand among all; None if all are."""
    if (counts := _kept_sizes(sizes)) == sizes:
        return None
    random, each = np.random.default_rng(_SEED), zip(accumulate(sizes, initial=0), sizes, counts, strict=False)
    return np.concatenate([start + np.sort(random.choice(size, count, replace=False)) for start, size, count in each])


def split(values: Values, sizes: Sequence[int]) -> list[Values]:
    """The columns of each output of (N, K), `kept` or whole, by their `sizes`; where none are given there is one."""
    sizes = _kept_sizes(sizes) if sizes and sum(sizes) != values.shape[1] else sizes
    return [values[:, end - size : end] for size, end in zip(sizes, accumulate(sizes), strict=True)] or [values]


def powers_of(squares: Any, sizes: Sequence[int]) -> tuple[float, ...]:
    """Of each output the mean over the images of its `squares` (N, K), 1 where that is 0."""
    return tuple(float(one.sum(1).mean()) or 1.0 for one in split(squares, sizes))


def relative(squares: Values, powers: Sequence[float], sizes: Sequence[int]) -> Values:
    """Of every image (N,): the mean over the outputs of what its `squares` (N, K) are in the output's power."""
    first, *others = (one.sum(1) / power for one, power in zip(split(squares, sizes), powers, strict=True))
    total: Values = sum(others, first) / len(powers)
    return total
