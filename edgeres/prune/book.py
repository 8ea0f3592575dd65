"""What a search has seen so far, and how sets of different gain are ranked."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from edgeres.prune.plan import Evaluator, Found, Goal, Plan, Subset

WHOLE: Subset = frozenset()
GROWTH = 1.5  # loss grows with gain to a power between 1 (lesions that do not interact) and 2 (logits that add up)
Key = tuple[float, tuple[int, ...]]


class Book:
    """Scores of the sets evaluated, on the screening images and on all (one and the same without screening)."""

    def __init__(self, evaluate: Evaluator, candidates: Sequence[str], goal: Goal, plan: Plan) -> None:
        self._evaluate, self._goal, self._images = evaluate, goal, plan
        self._places = {name: place for place, name in enumerate(candidates)}
        self._orders: dict[Subset, tuple[str, ...]] = {WHOLE: ()}
        self.all: dict[Subset, float] = {}
        self.screened: dict[Subset, float] = {} if plan.screened else self.all

    def screen(self, sets: Iterable[Subset]) -> None:
        """Scores on the screening images."""
        self._fill(self.screened, sets, self._images.screened)

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
        return self._evaluate.predict(base, nearest, images=self._images.screened)

    def key(self, subset: Subset, scores: dict[Subset, float], growth: float) -> Key:
        """Sorts sets on the way: score lost over gain^growth, what exceeds the goal counts for nothing; see `tie`."""
        gain = min(self._goal.of(subset), self._goal.needed)
        lost = scores[subset] - scores[WHOLE]
        return (lost / gain**growth if gain > 0 else float("inf")), self.tie(subset)

    def tie(self, subset: Subset) -> tuple[int, ...]:
        """Sorts sets of equal score: the later module goes first."""
        return tuple(sorted(-self._places[name] for name in subset))

    def leading(
        self, sets: Collection[Subset], scores: dict[Subset, float], count: int, *, growth: float = GROWTH
    ) -> list[Subset]:
        """The `count` best of `sets` on the way to the goal."""
        return sorted(sets, key=lambda subset: self.key(subset, scores, growth))[:count]

    def best(self, sets: Iterable[Subset]) -> Subset:
        """The lowest score on all images."""
        return min(sets, key=lambda subset: (self.all[subset], self.tie(subset)))

    def remember(self, subset: Subset, order: tuple[str, ...]) -> None:
        """The order in which the members were chosen, the first time."""
        self._orders.setdefault(subset, order)

    def order(self, subset: Subset) -> tuple[str, ...]:
        """Members in the order chosen; from the first position on if nobody chose."""
        return self._orders.get(subset) or tuple(sorted(subset, key=self._places.__getitem__))

    def found(self, subset: Subset) -> Found:
        """The set with what is known of it."""
        return Found(self.order(subset), self.all[subset], self._goal.of(subset))

    def levels(self) -> tuple[Found, ...]:
        """The best set evaluated on all images of every size."""
        sizes = sorted({len(subset) for subset in self.all if subset})
        return tuple(self.found(self.best(s for s in self.all if len(s) == size)) for size in sizes)
