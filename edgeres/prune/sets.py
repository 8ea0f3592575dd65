"""Sets of modules: what dropping one brings, how they are searched, what is known of them and what was found."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

Subset = frozenset[str]
WHOLE: Subset = frozenset()
GROWTH = 1.5  # loss grows with gain to a power between 1 (lesions that do not interact) and 2 (logits that add up)
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
class SearchPlan:
    """`width` sets are kept from level to level; the first `screen` of the `images` decide which are seen on all."""

    images: int
    width: int = 4
    screen: int = 250

    @property
    def screened(self) -> int | None:
        """Images to screen on, None if screening would see all of them."""
        return self.screen if self.screen < self.images else None


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
    by one gives for the same goal. singles: score of each single lesion, on the screening images. evaluated,
    screened: sets evaluated on all images, and on the screening images only. passes: (set, image) pairs evaluated over
    images.
    """

    best: Found
    independent: Found
    levels: tuple[Found, ...]
    singles: Mapping[str, float]
    evaluated: int
    screened: int
    passes: float


class SeenSets:
    """The sets that a search has scored, on the screening images and on all (one and the same without screening).

    candidates: in order of execution; only those that bring something are searched.
    """

    def __init__(self, evaluate: Evaluator, candidates: Sequence[str], goal: Goal, plan: SearchPlan) -> None:
        self._evaluate, self.candidates, self.goal, self.plan = evaluate, candidates, goal, plan
        self._places = {name: place for place, name in enumerate(candidates)}
        self._orders: dict[Subset, tuple[str, ...]] = {WHOLE: ()}
        self.all: dict[Subset, float] = {}
        self.screened: dict[Subset, float] = {} if plan.screened else self.all

    def screen(self, sets: Iterable[Subset]) -> None:
        """Scores on the screening images."""
        self._fill(self.screened, sets, self.plan.screened)

    def confirm(self, sets: Iterable[Subset]) -> None:
        """Scores on all images."""
        self._fill(self.all, sets, None)

    def _fill(self, scores: dict[Subset, float], sets: Iterable[Subset], images: int | None) -> None:
        new = [subset for subset in dict.fromkeys(sets) if subset not in scores]
        scores.update(zip(new, self._evaluate(new, images=images), strict=True))

    def estimate(self, base: Subset, name: str) -> float:
        """What screening base | {name} would give, from what leaving `name` out did to the largest parts of `base`."""
        target = base | {name}
        if target in self.screened:
            return self.screened[target]
        known = [
            (larger, larger - {name})
            for larger in self.screened
            if name in larger and larger < target and larger - {name} in self.screened
        ]
        most = max(len(larger) for larger, _ in known)
        nearest = [pair for pair in known if len(pair[0]) == most]
        return self._evaluate.predict(base, nearest, images=self.plan.screened)

    def leading(
        self, sets: Collection[Subset], scores: dict[Subset, float], count: int, *, growth: float = GROWTH
    ) -> list[Subset]:
        """The `count` best of `sets` on the way to the goal: of the least score lost over gain^growth.

        What exceeds the goal counts for nothing.
        """

        def lost(subset: Subset) -> tuple[float, tuple[int, ...]]:
            gain = min(self.goal.of(subset), self.goal.needed)
            return (scores[subset] - scores[WHOLE]) / gain**growth if gain > 0 else math.inf, self._tie(subset)

        return sorted(sets, key=lost)[:count]

    def best(self, sets: Iterable[Subset]) -> Subset:
        """The lowest score on all images."""
        return min(sets, key=lambda subset: (self.all[subset], self._tie(subset)))

    def reached(self) -> list[Subset]:
        """Those evaluated on all images that reach the goal."""
        return [subset for subset in self.all if self.goal.is_reached(subset)]

    def remember(self, subset: Subset, order: tuple[str, ...]) -> None:
        """The order in which the members were chosen, the first time."""
        self._orders.setdefault(subset, order)

    def order(self, subset: Subset) -> tuple[str, ...]:
        """Members in the order chosen; from the first position on if nobody chose."""
        return self._orders.get(subset) or tuple(sorted(subset, key=self._places.__getitem__))

    def found(self, subset: Subset) -> Found:
        """The set with what is known of it."""
        return Found(self.order(subset), self.all[subset], self.goal.of(subset))

    def levels(self) -> tuple[Found, ...]:
        """The best set evaluated on all images of every size."""
        sizes = sorted({len(subset) for subset in self.all if subset})
        return tuple(self.found(self.best(s for s in self.all if len(s) == size)) for size in sizes)

    @property
    def passes(self) -> float:
        """(set, image) pairs scored, over the number of images."""
        screened_only = len(self.screened.keys() - self.all.keys())
        return len(self.all) + screened_only * (self.plan.screened or 0) / self.plan.images

    def _tie(self, subset: Subset) -> tuple[int, ...]:
        """Sorts sets of equal score: the later module goes first."""
        return tuple(sorted(-self._places[name] for name in subset))
