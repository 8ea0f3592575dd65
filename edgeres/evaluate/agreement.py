"""How well two models agree on the same images: A is what B is held against.

    SQNR    10 log10 sum(a^2) / sum((a - b)^2)  over all values of all images, in dB
    cosine  sum(a b) / sqrt(sum(a^2) sum(b^2))
    KL      mean over the images of sum_k p_a(k) log(p_a(k) / p_b(k)), in nats

The exact McNemar test asks whether B is right more or less often than A; only images on which one of them alone is
right say anything.  Source: McNemar 1947, doi:10.1007/BF02295996, with the binomial distribution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeres.core.config import Record, unless_usual
from edgeres.core.metrics import Closeness, Interval, decibels, difference_of, wilson
from edgeres.runtime.runner import Logits

FALL_DB, FLOOR_DB = 6.0, 20.0  # a module drifts that loses more, or leaves less
HARMLESS_DB = 40.0  # above it the noise is less than 1 % of the signal's amplitude


class Pair(Record):
    """B against A on the same `n` images: `same` guess alike, only A or only B is right on `only_a` and `only_b`."""

    n: int
    same: int
    only_a: int
    only_b: int

    @property
    def agreement(self) -> Interval:
        """Share of images with the same top-1, with its Wilson interval."""
        return wilson(self.same, self.n)

    @property
    def difference(self) -> tuple[float, float]:
        """(accuracy of B minus that of A, half-width of its paired 95 % interval), as fractions."""
        return difference_of(self.n, lost=self.only_a, gained=self.only_b)

    @property
    def points(self) -> Interval:
        """Top-1 of B minus that of A in percentage points, paired."""
        return Interval.around(*(100 * value for value in self.difference))

    @property
    def p_value(self) -> float:
        """Exact McNemar test of equal accuracy."""
        return mcnemar(self.only_a, self.only_b)


@dataclass
class Comparison:
    """B against A, counted batch by batch: `right_a` and `right_b` are how often each is right, `only_a` A alone."""

    n: int = 0
    same: int = 0
    right_a: int = 0
    right_b: int = 0
    only_a: int = 0

    def count(self, guess_a: Any, guess_b: Any, labels: Any = None) -> None:
        """Counts first guesses (N,) of both, arrays or tensors, and who is right where there are labels."""
        self.n += len(guess_a)
        self.same += int((guess_a == guess_b).sum())
        if labels is not None:
            is_a, is_b = guess_a == labels, guess_b == labels
            self.right_a, self.right_b = self.right_a + int(is_a.sum()), self.right_b + int(is_b.sum())
            self.only_a += int((is_a & ~is_b).sum())

    @property
    def pair(self) -> Pair:
        """What was counted."""
        return Pair(n=self.n, same=self.same, only_a=self.only_a, only_b=self.only_a + self.right_b - self.right_a)


class Side(Record):
    """One of the two: the file, who executed it, and how often it was right, None where there are no labels."""

    path: str
    sha256: str
    precision: str
    runtime: str
    correct_top1: int | None


class Likeness(Record):
    """Of a tensor of B to A's of the same name; `sqnr_db` is None where they are equal bit for bit."""

    name: str
    sqnr_db: float | None
    cosine: float


class Agreement(Record):
    """`only_a`, `only_b`: images on which it alone is right; `modules`: their outputs, in order of execution.

    Networks without classes have a `closeness` of B to A instead of first guesses and a KL.
    """

    schema_version: int = 1
    a: Side
    b: Side
    dataset: str
    split: str
    n: int
    same_top1: int | None
    only_a: int
    only_b: int
    logits: Likeness
    kl: float | None
    modules: tuple[Likeness, ...] = ()
    drift: str | None = None
    notes: tuple[str, ...] = ()
    closeness: Closeness | None = None

    _written = unless_usual("closeness")

    @property
    def is_labelled(self) -> bool:
        """Whether anybody could be right."""
        return self.a.correct_top1 is not None

    @property
    def pair(self) -> Pair:
        """What was counted, without the noise."""
        return Pair(n=self.n, same=self.same_top1 or 0, only_a=self.only_a, only_b=self.only_b)


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided p-value: how likely a split at least as uneven is if both are equally often right."""
    n = only_a + only_b
    whole = math.lgamma(n + 1) - n * math.log(2)
    terms = (whole - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in range(min(only_a, only_b) + 1))
    return min(1.0, 2 * math.fsum(map(math.exp, terms)))


@dataclass
class Similarity:
    """Sums over a tensor's values; memory does not depend on the number of images."""

    power_a: float = 0.0
    power_b: float = 0.0
    product: float = 0.0
    noise: float = 0.0

    def add(self, a: NDArray[np.float32], b: NDArray[np.float32]) -> None:
        """Counts arrays of one shape."""
        x, y = np.ravel(a).astype(np.float64), np.ravel(b).astype(np.float64)
        self.power_a += float(x @ x)
        self.power_b += float(y @ y)
        self.product += float(x @ y)
        x -= y
        self.noise += float(x @ x)

    def likeness(self, name: str) -> Likeness:
        """The figures of what was added."""
        return Likeness(name=name, sqnr_db=self.sqnr_db, cosine=self.cosine)

    @property
    def sqnr_db(self) -> float | None:
        """None if there is no noise; -inf cannot be, a signal of zeros counts as the smallest float."""
        if self.noise == 0:
            return None
        return decibels(max(self.power_a, float(np.finfo(np.float64).tiny)), self.noise)

    @property
    def cosine(self) -> float:
        """1 for two tensors of zeros, 0 if only one of them is."""
        if self.power_a == 0 or self.power_b == 0:
            return float(self.power_a == self.power_b)
        return self.product / math.sqrt(self.power_a * self.power_b)


@dataclass
class ScaledSimilarity:
    """As `Similarity` where the channels of one tensor were scaled: each is brought to the other's scale first.

    The scale of a channel is the one of least squares, so what is left is what no factor explains.
    """

    sums: NDArray[np.float64] = field(default_factory=lambda: np.zeros((3, 1)))  # a a, b b, a b by channel

    def add(self, a: NDArray[np.float32], b: NDArray[np.float32]) -> None:
        """Counts arrays of one shape (N, C, ...)."""
        x, y = (array.astype(np.float64).reshape(*array.shape[:2], -1) for array in (a, b))
        products = [np.einsum("ncp,ncp->c", one, other) for one, other in ((x, x), (y, y), (x, y))]
        self.sums = self.sums + np.stack(products)

    def likeness(self, name: str) -> Likeness:
        """The figures of what was added."""
        power_a, power_b, product = self.sums
        fit = np.divide(product, power_b, out=np.zeros_like(product), where=power_b > 0)
        sums = power_a, fit**2 * power_b, fit * product, np.maximum(power_a - fit * product, 0)
        return Similarity(*(float(one.sum()) for one in sums)).likeness(name)


def kl_sum(a: Logits, b: Logits) -> float:
    """Sum over the rows of the KL divergence from softmax(a) to softmax(b), in nats."""
    log_a, log_b = log_softmax(a), log_softmax(b)
    return float((np.exp(log_a) * (log_a - log_b)).sum())


def log_softmax(logits: Logits) -> NDArray[np.float64]:
    """Row by row, in float64."""
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return result


def first_drift(modules: Sequence[Likeness]) -> str | None:
    """The first module at which SQNR falls under FLOOR_DB, or by more than FALL_DB below its predecessor's.

    A fall that ends above HARMLESS_DB is none: a single rounding that goes the other way takes equal tensors there.
    """
    before = math.inf
    for module in modules:
        sqnr = math.inf if module.sqnr_db is None else module.sqnr_db
        if sqnr < FLOOR_DB or (sqnr < min(HARMLESS_DB, before - FALL_DB) and before < math.inf):
            return module.name
        before = sqnr
    return None
