"""Which network is tried next, and which three of those that were tried are handed over: figures in, figures out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from edgeres.core.amounts import Target
from edgeres.core.metrics import Z_95, Interval, fixed
from edgeres.core.records.frontier import ResultName, Tried, meets, on_front
from edgeres.optimize.plan import PlannedSet

ACCURATE_POINTS = 0.1  # that `accurate` may lose, and a standard error more: nobody can tell that from nothing


class Winner(NamedTuple):
    """One of the three and why it is that."""

    name: ResultName
    tried: Tried
    why: str


class Question(NamedTuple):
    """Up to which place of a row something holds: `known` of those looked at, `guess` of where it ends.

    It is taken to hold at every place before one at which it does.
    """

    known: Mapping[int, bool]
    guess: int

    def next_place(self, places: int) -> int | None:
        """Where to look next of `places`, the guess first, then halfway between; None if there is nothing to ask."""
        holds = max((place for place, is_so in self.known.items() if is_so), default=-1)
        ends = min((place for place, is_so in self.known.items() if not is_so and place > holds), default=places)
        if ends - holds <= 1:
            return None
        guess = min(self.guess, places - 1)
        return guess if holds < guess < ends else (holds + ends) // 2


def next_place(questions: Iterable[Question], places: int) -> int | None:
    """The first place that a question still asks for, in their order."""
    return next((place for one in questions if (place := one.next_place(places)) is not None), None)


def latency_questions(
    sets: Sequence[PlannedSet], judged: Mapping[int, Tried], whole: Sequence[Tried], target: Target | None
) -> list[Question]:
    """How few modules are to go for the latency asked for; none where nothing is asked, or the whole network meets it.

    `judged`: what is known of the sets, by place; `whole`: that network, in float first.
    """
    if target is None or any(meets(one, target) for one in whole):
        return []
    share = target.value if target.is_ratio else target.value / whole[0].latency_ms.value
    slow = {place: not meets(one, target) for place, one in judged.items()}
    fast_enough = (i for i, one in enumerate(sets) if one.predicted and one.predicted.value <= share)
    return [Question(slow, next(fast_enough, len(sets) - 1))]


def loss_questions(sets: Sequence[PlannedSet], judged: Mapping[int, Tried], max_loss: float) -> Iterator[Question]:
    """How many modules may go for what `fast` may lose, and how many for nothing."""
    few = {place: one.lost_points.value <= max_loss for place, one in judged.items()}
    none = {place: loses_little(one) for place, one in judged.items()}
    for most, known in ((max_loss, few), (ACCURATE_POINTS, none)):
        mild = (i for i, one in enumerate(sets) if one.lost is not None and one.lost <= 2 * most)
        yield Question(known, max(mild, default=0))


def three(
    tried: Sequence[Tried], *, max_loss: float, target: Target | None, lost_are: str = "points"
) -> tuple[list[Winner], list[str]]:
    """The answers there are, and a line for each goal that was not reached; the first of `tried` is whole and float.

    `accurate` is no faster than `balanced`, nor that than `fast`, unless no network keeps both goals, which is said.
    """
    whole, found, missed = tried[0], [], []
    little = f"{ACCURATE_POINTS:g} {lost_are} and a standard error"
    fast = _fastest(one for one in tried if one.lost_points.value <= max_loss)
    balanced = _balanced(tried, fast, target, max_loss)
    most = max_loss if balanced is None else min(max_loss, balanced.tried.lost_points.value)
    accurate = _fastest(one for one in tried if loses_little(one) and one.lost_points.value <= most)
    if accurate is whole:
        missed.append(f"accurate: no network that was tried is faster and loses at most {little}")
    else:
        why = f"the fastest that loses at most {little}, and no more than balanced"
        found.append(Winner("accurate", accurate, why if balanced else why.partition(", and")[0]))
    if balanced is not None and balanced.tried is not whole:
        found.append(balanced)
    if target is not None and not any(meets(one, target) for one in tried):
        fastest = _fastest(tried)
        missed.append(
            f"--latency {target}: not reached; the fastest that was tried is {fastest.name} with"
            f" {fastest.latency_ms.value:.3f} ms, {fastest.ratio.value:.3f} of the whole, and loses"
            f" {fixed(fastest.lost_points.value, 2)} {lost_are}"
        )
    if target is not None and balanced is not None and balanced.tried.lost_points.value > max_loss:
        lost = fixed(balanced.tried.lost_points.value, 2)
        slow = "" if fast is whole else ", so fast is slower than balanced"
        missed.append(
            f"--latency {target} and --max-loss {max_loss:g} together: not reached; {balanced.tried.name} loses {lost}"
            f" {lost_are}, {fast.name} takes {fast.ratio.value:.3f} of the whole{slow}"
        )
    if fast is whole:
        missed.append(f"fast: no network that was tried is faster and loses at most --max-loss {max_loss:g}")
    else:
        found.append(Winner("fast", fast, f"the fastest that loses at most --max-loss {max_loss:g}"))
    return found, missed


def loses_little(one: Tried) -> bool:
    """Whether `accurate` may be it: its loss is what is allowed, or not surely more, by one standard error."""
    return is_little(one.lost_points)


def is_little(lost: Interval) -> bool:
    """The same of a loss."""
    return lost.value <= ACCURATE_POINTS + (lost.high - lost.value) / Z_95


def _fastest(tried: Iterable[Tried]) -> Tried:
    return min(tried, key=lambda one: (one.ratio.value, one.lost_points.value))


def _balanced(tried: Sequence[Tried], fast: Tried, target: Target | None, max_loss: float) -> Winner | None:
    """What loses least at the latency asked for; without one the knee of the front between the whole and `fast`."""
    if target is not None:
        fitting = [one for one in tried if meets(one, target)]
        if not fitting:
            return None if fast is tried[0] else Winner("balanced", fast, f"the nearest to {target}")
        best = min(fitting, key=lambda one: (one.lost_points.value, one.ratio.value))
        more = f", more than --max-loss {max_loss:g}" if best.lost_points.value > max_loss else ""
        return Winner("balanced", best, f"what loses least of those that take at most {target}{more}")
    front = [one for one in on_front(tried) if one.ratio.value >= fast.ratio.value]
    best = max(front, key=lambda one: _beyond_chord(one, front[0], front[-1]))
    return Winner("balanced", best, "the knee of the front")


def _beyond_chord(one: Tried, fastest: Tried, slowest: Tried) -> float:
    """How far it lies on the better side of the line between the ends, each axis as a share of its range."""
    width = slowest.ratio.value - fastest.ratio.value
    height = fastest.lost_points.value - slowest.lost_points.value
    if width <= 0 or height <= 0:
        return 0.0
    x = (one.ratio.value - fastest.ratio.value) / width
    y = (one.lost_points.value - slowest.lost_points.value) / height
    return 1 - x - y
