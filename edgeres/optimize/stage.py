"""`edgeres optimize`: from a network, images and a budget to three networks with their reports.

    frontier.json, frontier.svg    every network that was tried, loss against latency
    plan.toml                      the sets of modules that were chosen to be tried
    accurate/ balanced/ fast/      the three, each a run with its recipe, checkpoint, ONNX files and report

The whole network is tried first, in float and in INT8, then sets of modules, each in both, those first that decide a
question: how few modules meet the latency, how many the loss allows, how many go for nothing. The set that meets the
latency is trained before the other questions are asked. Time is looked at before every step, and what the end needs is
kept back.
"""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from edgeres.core.artifacts import Checkpoint, FrontierFile
from edgeres.core.errors import AlwaysRefused, require
from edgeres.core.figures import COLOURS, MUTED, figure_file
from edgeres.core.files import write_text
from edgeres.core.progress import budget_began, text_from
from edgeres.core.records.frontier import FRONTIER_NAME, Frontier, Precision, Result, Tried, draw_frontier, lines_of
from edgeres.core.runs import run_holding
from edgeres.core.stage import Recorder, StageResult
from edgeres.models import check_module_names
from edgeres.optimize.answers import latency_questions, loses_little, loss_questions, meets, next_place, three
from edgeres.optimize.choose import CHOOSING_SHARE, Choice, chosen
from edgeres.optimize.config import OptimizeConfig
from edgeres.optimize.plan import PLAN_NAME, WHOLE, Plan, PlannedSet, Shortened, plan_from, toml_text
from edgeres.optimize.results import handed_over
from edgeres.optimize.tries import HERE, Place, Workbench, shortened_of
from edgeres.prune.choose import candidates_of
from edgeres.prune.recover.budget import BudgetTooShort

_WORTH = 0.97  # of float latency: INT8 that is no faster than this is tried on the whole network alone
_SPARE = 1.2  # times what the last step of a kind took
_TRAINING_SHARE = 0.2  # of the budget, for the training of one network
_TRAINING_LEAST = 2  # times what the longest try without took
_TURN_S = 3.0  # of a network in the session that decides
_WARNINGS_SHOWN = 3  # the same sentence for each network is noise
_HEIGHT_IN = 3.9
_HOUR_S = 3600
_SLOWER = 1.5  # times; beside other work the same network took 20 s, and 36 s two minutes later
_ROUNDS = 12  # each grows by less than half of the one before
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


def optimize(
    source: Checkpoint, config: OptimizeConfig, out_dir: Path, *, place: Place = HERE
) -> StageResult[FrontierFile]:
    """Writes out_dir/frontier.json and the three results beside it; interrupted, the same call goes on.

    Raises InputError for data with too few images, a latency that the whole network meets already, a plan of another
    network, and a budget too short to try anything.
    """
    clock, recorder = Clock(config.budget_s), Recorder("optimize", config, source)
    config.check()
    require("matplotlib", "report")
    plan = plan_from(config.plan, source.sha256) if config.plan else None
    bench = Workbench(source, config, out_dir, place)
    candidates_of(source.spec, config.keep)
    for one in plan.tries if plan else ():
        check_module_names(source.spec, one.drop)
    _ = bench.held_out  # images that do not do are refused before anything is made of them
    with clock.on("whole network"):
        whole, is_time = _whole(bench)
    precision: Precision = "int8" if whole[-1].ratio.value < _WORTH else "fp32"
    choice = None

    def choose(until_s: float) -> Choice:
        with clock.on("choosing"):
            return chosen(bench, precision, min(one.ratio.value for one in whole), until_s=until_s)

    plan = plan if is_time else Plan(model_sha256=source.sha256, precision=precision)
    if plan is None:
        choice = choose(clock.began_s + CHOOSING_SHARE * config.budget_s)
        plan = choice.plan
        recorder.warnings += choice.warnings
        for line in () if config.plan_only else plan.lines(bench.lost_are):
            log.info("%s", line)
    write_text(out_dir / PLAN_NAME, toml_text(plan))
    tried, results, misses = list(whole), list[Result](), list[str]()
    if not config.plan_only:
        search = Search(bench, plan, whole, precision, clock, choice.step_s if choice else None, choose)
        tried, plan = search.tried(), search.plan
        write_text(out_dir / PLAN_NAME, toml_text(plan))
        recorder.warnings += bench.last.warnings[:_WARNINGS_SHOWN]
        answers, misses = three(tried, max_loss=config.max_loss, target=config.target, lost_are=bench.lost_are)
        if (plan.tries or not is_time) and len(tried) == len(whole):
            misses.append(f"no shortened network was tried: --budget {config.budget} left no time for one; give more")
        with clock.on("results"):
            for answer in answers:
                results.append(handed_over(bench, answer, results))
        misses += _beyond(results, config, len(bench.judged_on))
    found = _frontier(bench, tried, results, misses, clock)
    return _written(found, recorder, out_dir, choice, plan, clock)


def _frontier(
    bench: Workbench, tried: Sequence[Tried], results: Sequence[Result], misses: Sequence[str], clock: Clock
) -> Frontier:
    latency, config = bench.last.latencies[0], bench.config
    return Frontier(
        model_sha256=bench.source.sha256,
        dataset=bench.dataset.name,
        n=len(bench.judged_on),
        is_labelled=bench.is_labelled,
        lost_are=bench.lost_are,
        runtime=latency.runtime,
        machine=latency.machine,
        batch=config.batch,
        threads=latency.threads,
        latency=config.latency,
        max_loss=config.max_loss,
        tried=tuple(tried),
        results=tuple(results),
        spent_s=clock.spent_s,
        misses=tuple(misses),
        verdict=bench.last.verdict,
    )


def _beyond(results: Sequence[Result], config: OptimizeConfig, n: int) -> Iterator[str]:
    """A line if `fast` loses more on val than was allowed."""
    for lost in (one.val_lost_points for one in results if one.name == "fast"):
        if lost is not None and lost.value > config.max_loss:
            yield (
                f"fast: loses {lost.value:.2f} on val, more than --max-loss {config.max_loss:g}, which it kept on {n:,}"
                " train images; ask for less, or give more images and time to judge on"
            )


def _whole(bench: Workbench) -> tuple[tuple[Tried, ...], bool]:
    """The whole network in float and INT8, and whether there is time to try others.

    Raises InputError if in float it is fast enough, or if no time is left for what is needed: of a network that is all
    that was asked for in INT8, only to hand it over.
    """
    config, target, began_s = bench.config, bench.config.target, time.perf_counter()
    if bench.place.is_here and (least_s := bench.judging_s) > config.budget_s:
        raise _too_short(bench, least_s, f"judging the whole network twice takes {text_from(least_s)}", _steps(config))
    whole = bench.attempt(WHOLE, ("fp32", "int8"))
    took_s = time.perf_counter() - began_s
    if target is not None and meets(whole[0], target):
        took = f"{whole[0].latency_ms.value:.3f} ms"
        raise AlwaysRefused(f"--latency {config.latency} is met already: the whole float network takes {took}")
    is_met = target is not None and meets(whole[-1], target) and whole[-1].lost_points.value <= config.max_loss
    for steps in (_steps(config), ()) if is_met and not config.plan_only else (_steps(config),):
        if (1 + len(steps)) * took_s + bench.ending_s <= config.budget_s:
            return whole, bool(steps)
    raise _too_short(bench, took_s, f"the whole network alone took {text_from(took_s)}", steps)


def _steps(config: OptimizeConfig) -> Sequence[str]:
    """What comes between the whole network and the end, and may each take as long as that."""
    return [*(["choosing"] if config.plan is None else []), *([] if config.plan_only else ["one try"])]


def _too_short(bench: Workbench, took_s: float, why: str, steps: Sequence[str]) -> AlwaysRefused:
    """Says a budget that does if the whole network, each of the steps and the end are `_SLOWER` than this time."""
    asked_s, parts = bench.config.budget_s, [*steps, *([] if bench.config.plan_only else ["the last tables"])]
    least_s = asked_s
    for _ in range(_ROUNDS):  # of a longer budget more is judged, and the end is longer
        longer = bench.at(least_s)
        each_s = took_s + longer.judging_s - bench.judging_s
        least_s = max(least_s, _SLOWER * ((1 + len(steps)) * each_s + longer.ending_s))
    unit_s = 60 if least_s > _HOUR_S else 1  # of the text
    least = text_from(math.ceil(least_s / unit_s) * unit_s)
    return AlwaysRefused(
        f"--budget {bench.config.budget} is too short to try anything: {why};"
        f" with {' and '.join(filter(None, (', '.join(parts[:-1]), parts[-1])))} it takes {least} or more"
    )


@dataclass
class Search:
    """Tries sets of a plan, the mildest first in it, as long as one decides something and there is time."""

    bench: Workbench
    plan: Plan
    whole: tuple[Tried, ...]
    precision: Precision
    clock: Clock
    step_s: float | None  # of choosing sets of more modules, None for a plan that was given
    choose: Callable[[float], Choice]
    found: dict[int, tuple[Tried, ...]] = field(default_factory=dict)
    longest_s: float = 0.0
    trains: bool = True

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
        place = next_place(latency_questions(self.sets, judged, self.whole, config.target), len(self.sets))
        if place is None and (fast := self._untrained(self._fast_enough)) is not None:
            self._train(fast)
            return True
        if place is None:
            place = next_place(loss_questions(self.sets, judged, config.max_loss), len(self.sets))
        if place is not None:
            if self._spare_s > _SPARE * self.longest_s:
                self._attempt(place, "")
                return True
            return False
        if self._deepened():
            return True
        if (place := self._worth_training()) is not None:
            self._train(place)
            return True
        return False

    def _deepened(self) -> bool:
        """Whether sets of more modules were chosen: where the deepest decides nothing, in time nothing else needs."""
        config, deepest = self.bench.config, self._judged.get(len(self.sets) - 1)
        is_slow = deepest is not None and config.target is not None and not meets(deepest, config.target)
        if self.step_s is None or deepest is None or not (is_slow or deepest.lost_points.value <= config.max_loss):
            return False
        spare_s = self._spare_s - _SPARE * self.longest_s
        if spare_s < 2 * self.step_s:
            return False
        choice = self.choose(time.perf_counter() + spare_s)
        tried = {frozenset(self.sets[place].drop): several for place, several in self.found.items()}
        stay = [self.sets[place] for place in self.found]
        new = [one for one in choice.plan.tries if frozenset(one.drop) not in tried]
        sets = sorted((*stay, *new), key=lambda one: -one.ratio[0])
        is_deeper = len(sets) > len(self.sets)
        self.step_s = choice.step_s if is_deeper else None
        self.plan = self.plan.model_copy(update={"tries": tuple(sets)})
        self.found = {place: tried[key] for place, one in enumerate(sets) if (key := frozenset(one.drop)) in tried}
        for line in self.plan.lines(self.bench.lost_are) if is_deeper else ():
            log.info("%s", line)
        return is_deeper

    def _train(self, place: int) -> None:
        """Tries the set trained, unless there is no time for that; then there is none for another either."""
        least_s = _TRAINING_LEAST * self.longest_s
        share_s = max(_TRAINING_SHARE * self.bench.config.budget_s, least_s)
        training_s = min(share_s, self._spare_s / _SPARE - self.longest_s)
        before = self.bench.trained_before(self.sets[place].drop)
        try:
            if not before and training_s < least_s:
                ending = text_from(max(1.0, self.bench.ending_s))
                raise BudgetTooShort(
                    f"beside {ending} for the results {text_from(max(1.0, training_s))} are too little"
                )
            self._attempt(place, before or text_from(training_s))
        except BudgetTooShort as err:
            log.info("no time to train a network: %s", err)
            self.trains = False

    def _attempt(self, place: int, refined: str) -> None:
        precisions: tuple[Precision, ...] = ("fp32", "int8") if self.bench.place.is_here else (self.precision,)
        precisions, began_s = precisions if self.precision == "int8" else ("fp32",), time.perf_counter()
        with self.clock.on("training" if refined else "trying"):
            tried = self.bench.attempt(Shortened(self.sets[place].drop, refined), precisions)
        self.found[place] = (*self.found.get(place, ()), *tried)
        self.longest_s = self.longest_s if refined else max(self.longest_s, time.perf_counter() - began_s)
        log.info("%s of the budget left", text_from(max(1.0, self.clock.left_s)))

    @property
    def sets(self) -> Sequence[PlannedSet]:
        """Of the plan."""
        return self.plan.tries

    @property
    def _spare_s(self) -> float:
        """What is left beside the session that decides, and what comes after it."""
        asked = len(self.whole) + len(self._that_count) + 1
        session_s = (_TURN_S + self.bench.start_s) * asked
        return self.clock.left_s - self.bench.ending_s - session_s

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
        target = self.bench.config.target
        return [] if target is None else [place for place in self._losing if meets(self._judged[place], target)]

    @property
    def _judged(self) -> dict[int, Tried]:
        """By place in the plan the best of its set, in the precision that counts."""
        return {
            place: min((one for one in tries if one.precision == self.precision), key=lambda one: one.lost_points.value)
            for place, tries in self.found.items()
        }

    def _time_together(self) -> None:
        """In one session: the whole network and all that may be an answer."""
        asked = [*self.whole, *self._that_count]
        log.info("timing %d networks together", len(asked))
        told = {(shortened_of(one), one.precision): one for one in self.bench.timed(asked)}

        def anew(several: tuple[Tried, ...]) -> tuple[Tried, ...]:
            return tuple(told.get((shortened_of(one), one.precision), one) for one in several)

        self.whole = anew(self.whole)
        self.found = {place: anew(several) for place, several in self.found.items()}


def _written(
    found: Frontier, recorder: Recorder, out_dir: Path, choice: Choice | None, plan: Plan, clock: Clock
) -> StageResult[FrontierFile]:
    output = FrontierFile(out_dir / FRONTIER_NAME)
    write_text(output.path, found.model_dump_json(indent=1) + "\n")
    with figure_file(out_dir / "frontier.svg", height_in=_HEIGHT_IN) as axes:
        draw_frontier(axes, found, ink=COLOURS[0], muted=MUTED)
    recorder.results |= {"frontier": found.model_dump(mode="json")}
    if choice is not None:
        saved = {row.module: row.saved_ms.value for row in choice.table.table}
        recorder.results["modules"] = {
            name: {"saved_ms": saved[name], "lost_points_alone": lost} for name, lost in choice.alone.items()
        }
    if recorder.config.plan_only:  # type: ignore[attr-defined]
        recorder.notes += [
            *plan.lines(found.lost_are),
            f"to try them: edgeres optimize ... --plan {out_dir / PLAN_NAME}",
        ]
    else:
        recorder.notes += lines_of(found)
        shutil.rmtree(out_dir / "tried")
        (out_dir / "tried.json").unlink(missing_ok=True)
    spent = ", ".join(f"{what} {text_from(max(1.0, seconds))}" for what, seconds in clock.spent_s.items())
    recorder.notes.append(f"time went for: {spent}")
    if (home := run_holding(output.path)) is not None:
        recorder.notes.append(f"a page with all that was tried: edgeres report {home.name}")
    for left in ("search.json", "latency.json"):
        (out_dir / left).unlink(missing_ok=True)
    return StageResult(output, recorder.finish(output))
