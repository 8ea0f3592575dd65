"""Which modules to drop: independent ranking, conditional greedy, beam, or every set there is.

Single lesions do not add up (two modules of one stage can replace each other, but not both be gone), so all but the
first look at modules given what is gone already. Nothing here knows networks: an `Evaluator` gives scores of sets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations

from edgeres.core.errors import InputError
from edgeres.prune.beam import grow, refined
from edgeres.prune.sets import WHOLE, Evaluator, Found, Goal, Searched, SearchPlan, SeenSets, Subset

_SPARE = 2  # single lesions confirmed beyond those the independent ranking needs
_MOST_LISTED = 1 << 20  # sets of an exhaustive search with unequal gains that are listed to see which reach the goal


def search(
    evaluate: Evaluator,
    candidates: Sequence[str],
    goal: Goal,
    plan: SearchPlan,
    *,
    expect: Callable[[float], None] | None = None,
) -> Searched:
    """The best set found that reaches `goal`, and what was seen on the way.

    candidates: in order of execution. expect: told how many (set, image) pairs the search is likely to evaluate.
    Raises InputError if dropping all candidates is not enough, or for more sets than an exhaustive search may evaluate.
    """
    candidates = goal.useful(candidates)
    _check(candidates, goal)
    plan = _settled(plan, candidates)
    if expect is not None:
        expect(expected_work(candidates, goal, plan))
    seen = SeenSets(evaluate, candidates, goal, plan)
    singles = [frozenset({name}) for name in candidates]
    seen.screen([WHOLE, *singles])
    independent = _independent(seen)
    best = _best(seen, independent)
    return Searched(
        best=seen.found(best),
        independent=seen.found(independent),
        levels=seen.levels(),
        whole=seen.all[WHOLE],
        singles={name: seen.screened[frozenset({name})] for name in candidates},
        evaluated=len(seen.all),
        screened=len(seen.screened.keys() - seen.all.keys()),
        passes=seen.passes,
    )


def ranked(evaluate: Evaluator, ranking: Mapping[str, float], goal: Goal) -> Found:
    """The set that a criterion per module gives: lowest first, the later one of two equal, until the goal is reached.

    ranking: in order of execution.
    """
    ranking = {name: ranking[name] for name in goal.useful(list(ranking))}
    _check(list(ranking), goal)
    places = {name: place for place, name in enumerate(ranking)}
    order = sorted(ranking, key=lambda name: (ranking[name], -places[name]))
    chosen = _until_reached([frozenset({name}) for name in order], goal)
    return Found(chosen, evaluate([frozenset(chosen)])[0], goal.of(frozenset(chosen)))


def expected_work(candidates: Sequence[str], goal: Goal, plan: SearchPlan) -> float:
    """(set, image) pairs the search is likely to evaluate, swaps included."""
    n, size = len(candidates), min(_size(candidates, goal), len(candidates))
    if plan.method == "exhaustive":
        return plan.images * (math.comb(n, size) + n)
    screen = plan.screened or plan.images
    if plan.method == "independent":
        return float(n * screen + (size + 1) * plan.images)
    looked, confirmed = (min(k * plan.width, plan.width * n) for k in (plan.look, plan.confirm))
    level = looked * screen + confirmed * (plan.images - screen)
    return float(n * screen + level * (size - 1 + 2 * plan.swaps) + (confirmed + 2) * plan.images)


def _best(seen: SeenSets, independent: Subset) -> Subset:
    if seen.plan.method == "independent":
        order = seen.order(independent)
        smaller = [order[:size] for size in range(1, len(order))]
        for names in smaller:
            seen.remember(frozenset(names), names)
        seen.confirm(map(frozenset, smaller))
        return independent
    if seen.plan.method == "exhaustive":
        sets = _all_that_reach(seen.candidates, seen.goal, seen.plan.limit)
        seen.confirm(sets)
        return seen.best(sets)
    best = grow(seen)
    return refined(seen) if seen.plan.swaps else best


def _independent(seen: SeenSets) -> Subset:
    """Single lesions by score lost per gain, until the goal is reached; those in question are scored on all images."""
    singles = [frozenset({name}) for name in seen.candidates]
    screened = seen.leading(singles, seen.screened, len(singles), growth=1)
    leading = screened[: len(_until_reached(screened, seen.goal)) + _SPARE]
    seen.confirm([WHOLE, *leading])
    order = seen.leading(leading, seen.all, len(leading), growth=1) + screened[len(leading) :]
    chosen = _until_reached(order, seen.goal)
    seen.remember(frozenset(chosen), chosen)
    seen.confirm([frozenset(chosen)])
    return frozenset(chosen)


def _until_reached(singles: Sequence[Subset], goal: Goal) -> tuple[str, ...]:
    chosen: tuple[str, ...] = ()
    for single in singles:
        if goal.is_reached(frozenset(chosen)):
            break
        chosen = (*chosen, *single)
    return chosen


def _all_that_reach(candidates: Sequence[str], goal: Goal, limit: int) -> list[Subset]:
    """Every set that reaches the goal and would not without any of its members; InputError if they are too many."""
    n = len(candidates)
    gains = [goal.gain[name] for name in candidates]
    sizes = range(1, n + 1)
    if len(set(gains)) == 1:
        sizes = range(_size(candidates, goal), _size(candidates, goal) + 1)
    listed = sum(math.comb(n, size) for size in sizes)
    if listed > (limit if len(sizes) == 1 else _MOST_LISTED):
        raise InputError(_too_many(listed, n, limit))
    sets = [frozenset(names) for size in sizes for names in combinations(candidates, size)]
    sets = [s for s in sets if goal.is_reached(s) and not any(goal.is_reached(s - {name}) for name in s)]
    if len(sets) > limit:
        raise InputError(_too_many(len(sets), n, limit))
    return sets


def _too_many(sets: int, modules: int, limit: int) -> str:
    return (
        f"an exhaustive search over {modules} modules would evaluate {sets:,} sets, more than {limit:,};"
        " search by beam, or keep some modules out of it"
    )


def _size(candidates: Sequence[str], goal: Goal) -> int:
    """How many modules of mean gain reach the goal."""
    mean = math.fsum(goal.gain[name] for name in candidates) / len(candidates)
    return max(1, math.ceil(goal.needed / mean - 1e-9))


def _settled(plan: SearchPlan, candidates: Sequence[str]) -> SearchPlan:
    """Greedy is a beam of one that evaluates every child on all images."""
    if plan.method == "greedy":
        return replace(plan, width=1, look=len(candidates), confirm=len(candidates), screen=None, swaps=False)
    if plan.method in {"independent", "exhaustive"}:
        return replace(plan, screen=None)
    return plan


def _check(candidates: Sequence[str], goal: Goal) -> None:
    if not goal.is_reached(frozenset(candidates)):
        most = goal.of(frozenset(candidates))
        raise InputError(f"dropping all {len(candidates)} candidates brings {most:g}, but {goal.needed:g} is needed")
