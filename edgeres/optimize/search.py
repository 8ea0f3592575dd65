"""Which of the planned sets are tried, in which order, and which are trained, by what is known and by the clock.

Those first that decide a question: how few modules meet the latency, how many the loss allows, how many go for nothing.
The set that meets the latency is trained before the other questions are asked.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain

from edgeres.bench.stage import Session
from edgeres.bench.validity import INVALID
from edgeres.core.progress import budget_began, text_from
from edgeres.core.records.frontier import Precision, Tried, meets
from edgeres.optimize.answers import latency_questions, loses_little, loss_questions, next_place, three
from edgeres.optimize.choose import CHOOSING_SHARE, Choice
from edgeres.optimize.config import TRAINING_SHARE
from edgeres.optimize.plan import Plan, PlannedSet, Shortened
from edgeres.optimize.tries import MOST_ANSWERS, Workbench, shortened_of
from edgeres.prune.recover.budget import BudgetTooShort

_SPARE = 1.2  # times what the last step of a kind took
_TRAINING_LEAST = 2  # times what the longest try without took
_TURN_S = 3.0  # of a network in the session that decides
_SESSIONS = 3  # at most, until one was not disturbed
log = logging.getLogger(__name__)


class Clock:
    """What is left of the budget, and what the time went for."""

    def __init__(self, budget_s: float) -> None:
        self.began_s, self.spent_s = budget_began(), {}  # type: tuple[float, dict[str, float]]
        self.until_s = self.began_s + budget_s

    @property
    def left_s(self) -> float:
        """Until the budget is over."""
        return self.until_s - time.perf_counter()

    @contextmanager
    def on(self, what: str) -> Iterator[None]:
        """Counts the seconds inside as spent on `what`."""
        began_s = time.perf_counter()
        try:
            yield
        finally:
            self.spent_s[what] = round(self.spent_s.get(what, 0.0) + time.perf_counter() - began_s, 1)


@dataclass
class Search:
    """Tries sets of a plan, the mildest first in it, as long as one decides something and there is time."""

    bench: Workbench
    plan: Plan
    whole: tuple[Tried, ...]
    precision: Precision
    clock: Clock
    choice: Choice | None  # that the plan is from; None for a plan that was given
    choose: Callable[[float], Choice]
    found: dict[int, tuple[Tried, ...]] = field(default_factory=dict)
    longest_s: float = 0.0
    trains: bool = True
    deepens: bool = True  # as long as choosing again finds sets of more modules
    left_open: str = ""  # a set that decides something and for which there was no time
    lacking: str = ""  # what that would have taken, and what was left
    lacking_s: float = 0.0  # beside the try itself
    untrained: str = ""  # a set that was not trained, and what time was kept for instead
    training_s: float = 0.0  # that it takes at least

    def tried(self) -> list[Tried]:
        """What was tried, the whole float network first; those that count have the figures of one session.

        Where that session leaves a question open again, and there is time, the search goes on.
        """
        while self._try_more() or not self.found:
            if not self.found and self._spare_s <= 0:
                break  # the whole network was timed in one session before
            with self.clock.on("timing"):
                self._time_together()
            if not self.found:
                break
        return [*self.whole, *(one for place in sorted(self.found) for one in self.found[place])]

    def _try_more(self) -> bool:
        """Whether any was tried."""
        known = sum(map(len, self.found.values()))
        while self._step():
            pass
        return sum(map(len, self.found.values())) > known

    def _step(self) -> bool:
        """Tries a set that decides a question, or else chooses deeper ones, or trains one; whether there was time."""
        config, judged = self.bench.config, self._judged
        place = next_place(latency_questions(self.sets, judged, self.whole, config.aim), len(self.sets))
        if place is None and (fast := self._untrained(self._fast_enough)) is not None:
            self._train(fast)
            return True
        if place is None:
            place = next_place(loss_questions(self.sets, judged, config.max_loss), len(self.sets))
        if place is not None:
            if self._spare_s > _SPARE * self.longest_s:
                self._attempt(place, "")
                return True
            self._leave_open(place)
            return False
        if self._deepened():
            return True
        if (place := self._worth_training()) is not None:
            self._train(place)
            return True
        return False

    def _leave_open(self, place: int) -> None:
        left_s, spare_s, try_s = self.clock.left_s, self._spare_s, _SPARE * self.longest_s
        self.left_open, self.lacking_s = f"less {len(self.sets[place].drop)}", max(0.0, -spare_s)
        end = f"{text_from(left_s - spare_s)} for timing all together and handing over up to {self._most_answers}"
        takes = f"{text_from(try_s)} for the try and {end}" if try_s else end
        self.lacking = f" ({text_from(max(1.0, left_s))} were left; it needs {takes})"

    def _deepened(self) -> bool:
        """Whether sets of more modules were chosen: where the deepest decides nothing, in time nothing else needs."""
        config, deepest = self.bench.config, self._judged.get(len(self.sets) - 1)
        if self.choice is None or deepest is None or not self.deepens:
            return False
        is_fast = config.aim is None or meets(deepest, config.aim)
        if is_fast and deepest.lost_points.value > config.max_loss:
            return False
        spare_s = self._spare_s - _SPARE * self.longest_s
        if spare_s < 2 * self.choice.step_s:
            return False
        before, self.choice = len(self.sets), self.choose(time.perf_counter() + spare_s)
        tried = {frozenset(self.sets[place].drop): several for place, several in self.found.items()}
        stay = [self.sets[place] for place in self.found]
        new = [one for one in self.choice.plan.tries if frozenset(one.drop) not in tried]
        sets = sorted((*stay, *new), key=lambda one: -one.ratio[0])
        self.plan = self.plan.model_copy(update={"tries": tuple(sets)})
        self.found = {place: tried[key] for place, one in enumerate(sets) if (key := frozenset(one.drop)) in tried}
        self.deepens = len(sets) > before
        for line in self.choice.lines_of(self.plan, self.bench.lost_are) if self.deepens else ():
            log.info("%s", line)
        return self.deepens

    def _train(self, place: int) -> None:
        """Tries the set trained, unless there is no time for that; then there is none for another either."""
        least_s = _TRAINING_LEAST * self.longest_s
        share_s = max(TRAINING_SHARE * self.bench.config.budget_s, least_s)
        training_s = min(share_s, self._spare_s / _SPARE - self.longest_s)
        before = self.bench.trained_before(self.sets[place].drop)
        try:
            if not before and training_s < least_s:
                left_s, few = self.clock.left_s, text_from(max(1.0, training_s))
                why = (
                    f"of the {text_from(left_s)} left judging it, the last session and handing over up to"
                    f" {self._most_answers} take up to {text_from(max(1.0, left_s - training_s))}; {few} is too little"
                )
                self.untrained, self.training_s = f"less {len(self.sets[place].drop)} was not trained: {why}", least_s
                raise BudgetTooShort(why)
            self._attempt(place, before or text_from(training_s))
        except BudgetTooShort as err:
            log.info("no time to train a network: %s", err)
            self.trains = False

    def _attempt(self, place: int, refined: str) -> None:
        began_s = time.perf_counter()
        with self.clock.on("training" if refined else "trying"):
            planned = self.sets[place]
            tried = self.bench.attempt(Shortened(planned.drop, refined), self._precisions, planned.predicted)
        self.found[place] = (*self.found.get(place, ()), *tried)
        self.longest_s = self.longest_s if refined else max(self.longest_s, time.perf_counter() - began_s)
        log.info("%s of the budget left", text_from(max(1.0, self.clock.left_s)))

    @property
    def sets(self) -> Sequence[PlannedSet]:
        """Of the plan."""
        return self.plan.tries

    @property
    def another_s(self) -> float:
        """About how much more budget one more try takes, by what tries took: choosing takes its share of it."""
        taken_s = self.lacking_s + _SPARE * (self.longest_s or self.clock.spent_s.get("whole network", 0.0))
        return (taken_s + _TURN_S + self.bench.start_s) / (1 - CHOOSING_SHARE * (self.choice is not None))

    @property
    def _spare_s(self) -> float:
        """What is left beside the session that decides, and what comes after it."""
        asked = len(self.whole) + len(self._that_count) + 1
        session_s = (_TURN_S + self.bench.start_s) * asked
        return self.clock.left_s - self.bench.ending_s(self._most_answers) - session_s

    @property
    def _most_answers(self) -> int:
        """Networks that would be handed over now, and as many more as another try has precisions."""
        return min(MOST_ANSWERS, len(self._answers) + len(self._precisions))

    @property
    def _answers(self) -> set[Tried]:
        """The networks that would be handed over now."""
        config, tried = self.bench.config, [*self.whole, *chain(*self.found.values())]
        answers, _ = three(tried, max_loss=config.max_loss, target=config.target)
        return {one.tried for one in answers}

    @property
    def _precisions(self) -> tuple[Precision, ...]:
        """In which a set is tried."""
        is_both = self.precision == "int8" and self.bench.place.is_here
        return ("fp32", "int8") if is_both else (self.precision,)

    @property
    def _that_count(self) -> list[Tried]:
        """Those in the faster precision."""
        return [one for one in chain(*self.found.values()) if one.precision == self.precision]

    def _worth_training(self) -> int | None:
        """A set not trained so far: the mildest that loses too much for `fast`, or for `accurate`."""
        dear = [place for place in self._losing if self._judged[place].lost_points.value > self.bench.config.max_loss]
        return next((place for one in (dear, self._losing) if (place := self._untrained(one)) is not None), None)

    def _untrained(self, places: Sequence[int]) -> int | None:
        """The first of these, if it can and may still be trained."""
        first = min(places, default=None)
        known = self.trains and first is not None and not any(one.refined for one in self.found[first])
        return first if known else None

    @property
    def _losing(self) -> list[int]:
        """Sets that lose more than little."""
        return [place for place, one in self._judged.items() if not loses_little(one)]

    @property
    def _fast_enough(self) -> list[int]:
        """Those of them that meet the latency asked for."""
        aim = self.bench.config.aim
        return [] if aim is None else [place for place in self._losing if meets(self._judged[place], aim)]

    @property
    def _judged(self) -> dict[int, Tried]:
        """By place in the plan the best of its set, in the precision that counts."""
        return {
            place: min((one for one in tries if one.precision == self.precision), key=lambda one: one.lost_points.value)
            for place, tries in self.found.items()
        }

    def _time_together(self) -> None:
        """In one session: the whole network and all that may be an answer; again, where its verdict is invalid."""
        asked = [*self.whole, *self._that_count]
        asked += [one for one in self._answers if one not in asked]
        log.info("timing %d networks together", len(asked))
        sessions = [(self.bench.timed(asked), self.bench.last)]
        while self.bench.last.verdict.startswith(INVALID) and len(sessions) < _SESSIONS and self._spare_s > 0:
            log.info("%s; timing them again", self.bench.last.verdict)
            sessions.append((self.bench.timed(asked), self.bench.last))
        best, self.bench.last = min(sessions, key=_doubt)
        told = {(shortened_of(one), one.precision): one for one in best}

        def anew(several: tuple[Tried, ...]) -> tuple[Tried, ...]:
            return tuple(told.get((shortened_of(one), one.precision), one) for one in several)

        self.whole = anew(self.whole)
        self.found = {place: anew(several) for place, several in self.found.items()}


def _doubt(session: tuple[Sequence[Tried], Session]) -> tuple[bool, float]:
    """Of an invalid one more than of any other, then as wide as its widest interval is."""
    found, about = session
    return about.verdict.startswith(INVALID), max(one.ratio.precision for one in found)
