"""What a search is asked, how it goes about it and what it finds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

Subset = frozenset[str]
Method = Literal["independent", "greedy", "beam", "exhaustive"]
_ROUNDING = 1e-9  # a goal is reached although its gains were summed in another order


class Evaluator(Protocol):
    """Scores of sets of dropped modules, lower is better; a set asked again costs nothing."""

    def __call__(self, sets: Sequence[Subset], *, images: int | None = None) -> list[float]:
        """The score of each set on the first `images` images, by default on all."""

    def predict(self, base: Subset, differences: Sequence[tuple[Subset, Subset]], *, images: int | None) -> float:
        """An estimate, without evaluating, of the score when the mean difference without - with comes on top of `base`.

        `differences`: pairs of evaluated sets (larger, smaller) that differ by the modules to add.
        """


@dataclass(frozen=True)
class Goal:
    """Dropping a set brings the sum of its members' `gain`; `needed` of it is the goal.

    Gain 1 and needed K is "drop K"; milliseconds or MACs saved otherwise.
    """

    gain: Mapping[str, float]
    needed: float

    def of(self, subset: Subset) -> float:
        """What dropping `subset` brings."""
        return math.fsum(self.gain[name] for name in subset)

    def useful(self, candidates: Sequence[str]) -> list[str]:
        """Those that bring something: a module may cost time to drop, as far as a measurement can tell."""
        return [name for name in candidates if self.gain[name] > 0]

    def is_reached(self, subset: Subset) -> bool:
        """Whether dropping `subset` is enough."""
        return self.of(subset) >= self.needed * (1 - _ROUNDING)


@dataclass(frozen=True)
class Plan:
    """How to search.

    width: sets kept from level to level. screen: first so many of the `images` decide which sets are evaluated on all
    (None: no screening). look, confirm: per place in the beam, how many sets of a level are screened and how many are
    evaluated on all images. swaps: exchange members of the set found while it gets better. limit: most sets that
    the exhaustive search evaluates.
    """

    method: Method = "beam"
    images: int = 1000
    width: int = 4
    swaps: bool = True
    screen: int | None = 250
    look: int = 4
    confirm: int = 2
    limit: int = 5000

    @property
    def screened(self) -> int | None:
        """Images to screen on, None if screening would see all of them."""
        return self.screen if self.screen is not None and self.screen < self.images else None


@dataclass(frozen=True)
class Found:
    """A set, its members in the order chosen, its score on all images and its gain."""

    dropped: tuple[str, ...]
    score: float
    gain: float


@dataclass(frozen=True)
class Searched:
    """`best` reaches the goal.

    levels: the best set evaluated of every size from one up, smallest first. independent: what ranking the modules one
    by one gives for the same goal. singles: score of each single lesion, on the screening images. whole: score of the
    whole network. evaluated, screened: sets evaluated on all images, and on the screening images only. passes:
    (set, image) pairs evaluated over images.
    """

    best: Found
    independent: Found
    levels: tuple[Found, ...]
    whole: float
    singles: Mapping[str, float] = field(default_factory=dict)
    evaluated: int = 0
    screened: int = 0
    passes: float = 0.0
