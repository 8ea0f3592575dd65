"""How far one network's outputs are from another's on the same images: by what they are for, without labels.

    kl        sum_k p(k) log(p(k) / q(k))     scores of classes, in nats; p and q are softmax of whole and changed
    cosine    1 - a b / (|a| |b|)             an embedding
    error     |a - b|^2 / mean |a|^2          other tensors
    centred   |a - b|^2 / mean |a - m|^2      scores whose first guess is nearly always the same; m: mean of a

Of several outputs, which stand side by side in (N, K), the error is the mean of each one's own: a small map counts as
much as a large one, and one of small numbers as much as one of large ones.

a is the whole network's, means go over images; smaller is nearer, 0 the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Literal, TypeVar

from edgeres.core.spec import Task

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


def split(values: Values, sizes: Sequence[int]) -> list[Values]:
    """The columns of each output of (N, K), by their `sizes`; where none are given there is one."""
    return [values[:, end - size : end] for size, end in zip(sizes, accumulate(sizes), strict=True)] or [values]


def powers_of(squares: Any, sizes: Sequence[int]) -> tuple[float, ...]:
    """Of each output the mean over the images of its `squares` (N, K), 1 where that is 0."""
    return tuple(float(one.sum(1).mean()) or 1.0 for one in split(squares, sizes))


def relative(squares: Values, powers: Sequence[float], sizes: Sequence[int]) -> Values:
    """Of every image (N,): the mean over the outputs of what its `squares` (N, K) are in the output's power."""
    first, *others = (one.sum(1) / power for one, power in zip(split(squares, sizes), powers, strict=True))
    total: Values = sum(others, first) / len(powers)
    return total
