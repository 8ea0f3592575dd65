"""Measurements keep what was counted; rates, percentiles and intervals are derived from it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from edgeres.core.amounts import counted
from edgeres.core.config import Record, unless_usual

FUSED = " fused Q/DQ"  # said of a runtime where it executes pairs as integer kernels
Z_95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution
_MOST_PLACES = 15  # decimals of a float near 1
Say = Callable[..., str]  # words a number, with so many decimals `more` than usual


def in_style(style: str) -> Say:
    """By a format of Python's, such as `.3f`."""

    def say(value: float, *, more: int = 0) -> str:
        return format(value, re.sub(r"(?<=\.)\d+", lambda digits: str(int(digits[0]) + more), style))

    return say


def places_more(low: float, high: float, say: Say) -> int:
    """Decimals to add so that rounding does not make one of the two ends of an interval, which would read as exact."""
    if low == high:
        return 0
    return next((more for more in range(_MOST_PLACES) if say(low, more=more) != say(high, more=more)), 0)


def decibels(signal: float, noise: float) -> float:
    """10 log10(signal / noise), of powers: infinite without noise, -inf for what is nothing else, or is not finite."""
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 and math.isfinite(noise) else -math.inf


class Interval(Record):
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def around(cls, value: float, half_width: float = 0.0) -> Interval:
        """As far below as above."""
        return cls(value=value, low=value - half_width, high=value + half_width)

    @property
    def precision(self) -> float:
        """The wider of its two sides, as a fraction of the figure."""
        return max(self.high - self.value, self.value - self.low) / abs(self.value)

    def times(self, factor: float) -> Interval:
        """In another unit, of which one is `factor` of the new ones."""
        return Interval(value=factor * self.value, low=factor * self.low, high=factor * self.high)

    def inverse(self, of: float = 1.0) -> Interval:
        """`of` over the figure."""
        return Interval(value=of / self.value, low=of / self.high, high=of / self.low)

    def text(self, style: str = ".2f", unit: str = "") -> str:
        """`0.97 [0.95, 0.98]` or, with a unit, `+1.20 points (+0.30 to +2.10)`; `style` is a format of Python's."""
        say = in_style(style)
        more = places_more(self.low, self.high, say)
        value, low, high = (say(number, more=more) for number in (self.value, self.low, self.high))
        if not unit:
            return f"{value} [{low}, {high}]"
        return (
            f"{value} {unit} ({low} to {high})"
            if math.isfinite(self.low)
            else f"{value} {unit} (one seed, no interval)"
        )

    def bounds(self, style: str = ".3f", say: Say | None = None) -> str:
        """`95 %: 0.950 to 0.980`, in a style or as `say` words a number."""
        say = say or in_style(style)
        more = places_more(self.low, self.high, say)
        return f"95 %: {say(self.low, more=more)} to {say(self.high, more=more)}"

    def plus_minus(self, places: int = 2) -> str:
        """`1.43 ± 0.53`, the second half of its width; without it where it has none."""
        half = (self.high - self.low) / 2
        places += places_more(0.0, half, in_style(f".{places}f"))
        return fixed(self.value, places) + (f" ± {half:.{places}f}" if half else "")


def fixed(value: float, places: int) -> str:
    """With so many decimals, and no minus before a zero."""
    return f"{round(value, places) + 0.0:.{places}f}"


def threads_text(threads: int) -> str:
    """`1 thread`, `2 threads`; nothing for none, as where a GPU computes."""
    return counted(threads, "thread") if threads else ""


class Accuracy(Record):
    """Right answers of one model on one split.

    `runtime` says what executed the model; `predictions` names the file beside the report with the top-1 class of every
    image and its label (.npy, uint16 (n, 2)), from which paired comparisons are made.
    """

    correct_top1: int
    correct_top5: int
    n: int = Field(gt=0)
    dataset: str
    split: str
    runtime: str
    artifact: str
    predictions: str | None = None

    @property
    def top1(self) -> float:
        """Fraction of images whose first guess is right."""
        return self.correct_top1 / self.n

    @property
    def top5(self) -> float:
        """Fraction of images whose first five guesses hold the right one."""
        return self.correct_top5 / self.n

    @property
    def interval(self) -> Interval:
        """Top-1 with its 95 % Wilson score interval."""
        return wilson(self.correct_top1, self.n)


Likened = Literal["cosine", "error", "guess"]


class Closeness(Record):
    """How near one model's outputs are to those of `reference` (a sha256) on the same images.

    `measure`: the cosine of each image's outputs; their squared error over the reference's mean power; or whether the
    first guess is the same. `mean` goes over images, one image in a hundred is worse than `worst` (None of guesses).
    `parts`: of several outputs the mean of each, of which `mean` is the mean.
    """

    measure: Likened
    mean: float
    worst: float | None
    n: int = Field(gt=0)
    dataset: str
    split: str
    runtime: str
    artifact: str
    reference: str
    parts: dict[str, float] = Field(default_factory=dict)

    _written = unless_usual("parts")

    @property
    def is_of_itself(self) -> bool:
        """Whether it is what others are held against."""
        return self.artifact == self.reference


class OwnFigure(Record):
    """What a function of the user's says of `n` images; `half_width` of its 95 % interval where it is a mean of each.

    `name` is the function's.
    """

    name: str
    value: float
    half_width: float | None = None
    n: int = Field(gt=0)

    @property
    def text(self) -> str:
        """`auc 0.91230 ± 0.00410`."""
        return f"{self.name} {self.value:.5f}" + ("" if self.half_width is None else f" ± {self.half_width:.5f}")


class Latency(Record):
    """Raw samples of one model, one call each.

    Samples of one `session` were interleaved on one machine and may be compared; others may not. `rounds` says how
    many of them each round took, in order: what disturbs a call disturbs its round, so intervals resample rounds.
    """

    samples_ms: tuple[float, ...] = Field(min_length=1)
    batch: int
    runtime: str
    threads: int
    session: str
    artifact: str
    warmup: int
    machine: str
    note: str = ""
    rounds: tuple[int, ...] = ()

    @property
    def executor(self) -> str:
        """The runtime, whether it fused Q/DQ pairs or had none: of two on one executor the gain is the model's."""
        return self.runtime.removesuffix(FUSED)

    @property
    def p50_ms(self) -> float:
        """Median."""
        return self.percentile_ms(50)

    @property
    def p99_ms(self) -> float:
        """99th percentile."""
        return self.percentile_ms(99)

    def percentile_ms(self, q: float) -> float:
        """The q-th percentile, q in [0, 100]."""
        return float(np.percentile(self.samples_ms, q))


class Energy(Record):
    """Energy of one image on a device: (mean power under load - mean power at rest) x time of an image.

    `half_width_mj` is half of the 95 % interval. `source` names the rails; with `is_input` the input rail was measured,
    otherwise it is their sum, less than wall power, and with `is_partial` some of them could not be read.
    """

    mj_per_image: float
    half_width_mj: float
    load_w: float
    idle_w: float
    load_samples: int
    idle_samples: int
    batch: int
    source: str
    is_input: bool
    is_partial: bool
    artifact: str
    machine: str


def wilson(successes: int, n: int) -> Interval:
    """A proportion with its 95 % score interval; of nothing it may be any.

    Source: Wilson 1927; recommended for all n by Brown, Cai & DasGupta 2001, doi:10.1214/ss/1009213286.
    """
    if n == 0:
        return Interval(value=0.0, low=0.0, high=1.0)
    p, z2 = successes / n, Z_95**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    low = 0.0 if successes == 0 else centre - half  # rounding would leave 1e-17
    high = 1.0 if successes == n else centre + half
    return Interval(value=p, low=low, high=high)


def paired_difference(before: Sequence[bool], after: Sequence[bool]) -> tuple[float, float]:
    """`difference_of` for the images that are right before and after, in one order."""
    a, b = np.asarray(before, bool), np.asarray(after, bool)
    return difference_of(len(a), lost=int((a & ~b).sum()), gained=int((b & ~a).sum()))


def difference_of(n: int, *, lost: int, gained: int) -> tuple[float, float]:
    """Change of accuracy on the SAME `n` images and the half-width of its 95 % interval, both as fractions.

    Only images on which the two disagree carry information, so the interval is far narrower than two separate ones.
    Half an image is added to every cell, so that it has a width when they agree on all. Of two that are equally often
    right it excludes 0 in 0.3, 2.4, 4.0 and 4.9 % of cases where 2, 5, 10 and 50 images tell them apart on average.
    Source: Agresti & Min 2005, doi:10.1002/sim.1781 (Wald + 2).
    """
    variance = (gained + lost + 1) - (gained - lost) ** 2 / (n + 2)
    return (gained - lost) / n, Z_95 * math.sqrt(variance) / (n + 2)
