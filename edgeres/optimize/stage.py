"""`edgeres optimize`: from a network, images and a budget to three networks with their reports.

    frontier.json, frontier.svg    every network that was tried, loss against latency
    plan.toml                      the sets of modules that were chosen to be tried
    search.json                    what sets of modules lost, for another search of the run
    accurate/ balanced/ fast/      the three, each a run with its recipe, checkpoint, ONNX files and report

The whole network is tried first, in float and in INT8, then sets of modules, each in both, those first that decide a
question (`search`). Time is looked at before every step, and what the end needs is kept back.
"""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from edgeres.core.artifacts import FOR_A_CPU, Checkpoint, FrontierFile
from edgeres.core.config import command_with
from edgeres.core.errors import AlwaysRefused, InputError, require
from edgeres.core.files import write_text
from edgeres.core.lineage import advised
from edgeres.core.pictures import COLOURS, MUTED, figure_file
from edgeres.core.progress import text_from
from edgeres.core.records.frontier import (
    FRONTIER_NAME,
    Frontier,
    Precision,
    Result,
    Tried,
    draw_frontier,
    lines_of,
    meets,
)
from edgeres.core.runs import Run, StageFolder, run_holding
from edgeres.core.safe_text import typed
from edgeres.core.stage import Recorder, StageResult
from edgeres.data.split import OWN_GUESSES
from edgeres.models import check_module_names
from edgeres.optimize.answers import ACCURATE_POINTS, is_little, three
from edgeres.optimize.choose import CHOOSING_SHARE, Choice, chosen
from edgeres.optimize.config import OptimizeConfig
from edgeres.optimize.plan import PLAN_NAME, WHOLE, Plan, plan_from, toml_text
from edgeres.optimize.results import handed_over
from edgeres.optimize.search import Clock, Search
from edgeres.optimize.tries import HERE, LEAST_ENDING_S, MOST_ANSWERS, Place, Workbench
from edgeres.prune.choose import candidates_of

_WORTH = 0.97  # of float latency: INT8 that is no faster than this is tried on the whole network alone
_HEIGHT_IN = 3.9
_HOUR_S = 3600
_OVERRUN = 0.1  # of the budget: what is more is said
_SLOWER = 1.5  # times; beside other work the same network took 20 s, and 36 s two minutes later
_ROUNDS = 12  # each grows by less than half of the one before
log = logging.getLogger(__name__)


def optimize(
    source: Checkpoint, config: OptimizeConfig, out_dir: Path, *, place: Place = HERE
) -> StageResult[FrontierFile]:
    """Writes out_dir/frontier.json and the three results beside it; interrupted, the same call goes on.

    Raises InputError for data with too few images, a latency that the whole network meets already, a plan of another
    network, and a budget too short to try anything.
    """
    clock, recorder = Clock(config.budget_s), Recorder("optimize", config, source)
    refuse_early(config, place)
    plan = plan_from(config.plan, source.sha256) if config.plan else None
    bench = Workbench(source, config, out_dir, place)
    candidates_of(source.spec, config.keep)
    _check_sets(plan, source, config)
    with clock.on("whole network"):
        _ = bench.held_out  # images that do not do are refused before anything is made of them
        whole, why_not = _whole(bench)
    precision: Precision = "int8" if whole[-1].ratio.value < _WORTH else "fp32"
    choice = None

    def choose(until_s: float) -> Choice:
        with clock.on("choosing"):
            return chosen(
                bench, precision, min((one.ratio for one in whole), key=lambda ratio: ratio.value), until_s=until_s
            )

    plan = Plan(model_sha256=source.sha256, precision=precision) if why_not else plan
    if plan is None:
        choice = choose(clock.began_s + CHOOSING_SHARE * config.budget_s)
        plan = choice.plan
        recorder.warnings += choice.warnings
        for line in () if config.plan_only else choice.lines_of(plan, bench.lost_are):
            log.info("%s", line)
    write_text(out_dir / PLAN_NAME, toml_text(plan))
    tried, results, misses = list(whole), list[Result](), list[str]()
    if not config.plan_only:
        search = Search(bench, plan, whole, precision, clock, choice, choose)
        tried, plan = search.tried(), search.plan
        write_text(out_dir / PLAN_NAME, toml_text(plan))
        answers, misses = three(tried, max_loss=config.max_loss, target=config.target, lost_are=bench.lost_are)
        if misses and not bench.is_labelled and source.spec.task == "classes":
            misses.append(f"{OWN_GUESSES}; by labels less may be lost")
        bench.on_val = bench.val_within(clock.left_s, {answer.tried for answer in answers})
        with clock.on("results"):
            for answer in answers:
                results.append(handed_over(bench, answer, results))
        misses += _left_open(search, why_not, clock, config)
        misses += _beyond(results, config, len(bench.judged_on))
        recorder.warnings += _passed(clock, config)
    found = _frontier(bench, tried, results, misses, clock)
    recorder.warnings += bench.last.warnings  # which the verdict speaks of
    return _written(found, recorder, bench, choice, plan)


def refuse_early(config: OptimizeConfig, place: Place = HERE) -> None:
    """Raises for what can be seen without a network: options, a budget too short for any, a missing package."""
    config.check()
    least_s = place.session_s + (0.0 if config.plan_only else LEAST_ENDING_S)
    if config.budget_s < least_s:
        parts = "timing the whole network" + ("" if config.plan_only else " and handing one over")
        raise AlwaysRefused(
            f"--budget {config.budget} is too short to try anything: {parts} alone takes"
            f" {text_from(math.ceil(least_s))} or more"
        )
    require("matplotlib", "report")


def _check_sets(plan: Plan | None, source: Checkpoint, config: OptimizeConfig) -> None:
    """Raises InputError for a module that the network of a given plan does not have, or that is to be kept."""
    for one in plan.tries if plan else ():
        check_module_names(source.spec, one.drop)
        if kept := sorted({*one.drop} & {*config.keep}):
            raise InputError(f"{config.plan} drops {', '.join(kept)}, which --keep names; leave it out of one of them")


def _frontier(
    bench: Workbench, tried: Sequence[Tried], results: Sequence[Result], misses: Sequence[str], clock: Clock
) -> Frontier:
    if not bench.last.latencies:  # a mere plan, and an interrupted call had timed the whole network
        with clock.on("timing"):
            tried = bench.timed(tried)
    latency, config = bench.last.latencies[0], bench.config
    earlier_s = StageFolder(bench.out_dir, 0, "optimize").spent_s  # which the stage's duration counts too
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
        spent_s=({"earlier calls": round(earlier_s, 1)} if earlier_s else {}) | clock.spent_s,
        misses=tuple(misses),
        verdict=bench.last.verdict,
    )


def _off(plan: Plan, tried: Sequence[Tried]) -> Iterator[str]:
    """A line on how far measured shares are from those predicted, where there are any."""
    told = {frozenset(one.drop): one.predicted for one in plan.tries if one.predicted}
    pairs = ((one.ratio.value, told.get(frozenset(one.dropped))) for one in tried if one.precision == plan.precision)
    known = [(measured, predicted) for measured, predicted in pairs if predicted is not None]
    if not known:
        return
    off = [measured - predicted.value for measured, predicted in known]
    beyond = sum(not one.low <= measured <= one.high for measured, one in known if one.low < one.high)
    outside = f", {beyond} outside the brackets: the session of the modules was another" if beyond else ""
    yield f"measured shares less those predicted: {min(off):+.3f} to {max(off):+.3f} (n = {len(off)}{outside})"


def _passed(clock: Clock, config: OptimizeConfig) -> Iterator[str]:
    """A line if it took more than a tenth longer than was asked."""
    if clock.left_s < -_OVERRUN * config.budget_s:
        took = text_from(config.budget_s - clock.left_s)
        yield f"took {took} of --budget {config.budget}: judging and timing the results took longer than reckoned"


def _beyond(results: Sequence[Result], config: OptimizeConfig, n: int) -> Iterator[str]:
    """A line for each that loses more on val than its name allows."""
    for one in results:
        if one.val_lost_points is None:
            continue
        lost, todo = one.val_lost_points.value, "give more images and time to judge on"
        if one.tried.lost_points.value <= config.max_loss < lost:
            most, is_by_latency = f"--max-loss {config.max_loss:g}", one.name == "balanced" and config.latency
            slower = "a slower --latency" if is_by_latency else "a smaller --max-loss drops fewer modules"
            todo = f"allow more points (a greater --max-loss), ask for less speed ({slower}), or {todo}"
        elif one.name == "accurate" and not is_little(one.val_lost_points):
            most = f"{ACCURATE_POINTS:g} and a standard error"
        else:
            continue
        yield (f"{one.name}: loses {lost:.2f} on val, more than {most}, which it kept on {n:,} train images; {todo}")


def _left_open(search: Search, why_not: str, clock: Clock, config: OptimizeConfig) -> Iterator[str]:
    """A line if there was no time for a network that may be an answer, once it is known what the end took.

    Of one that was not trained only if what stayed unused would have been enough.
    """
    took, left = text_from(clock.spent_s.get("results", 0.0)), text_from(clock.left_s)
    unused = f", handing over took {took} and {left} stayed unused" if clock.left_s >= 1 else ""
    if why_not:
        yield f"no shortened network was tried: {why_not}"
    elif search.left_open:
        what = f"{search.left_open} may be an answer" if search.found else "no shortened network was tried"
        more = text_from(math.ceil(search.another_s))
        yield (
            f"{what}: --budget {config.budget} left too little time{search.lacking}{unused}; give about {more} more to"
            " try one more, which begins anew"
        )
    elif search.untrained and clock.left_s >= search.training_s:
        yield f"{search.untrained}{unused}"


def _whole(bench: Workbench) -> tuple[tuple[Tried, ...], str]:
    """The whole network in float and INT8, and why there is no time to try others; empty if there is.

    Raises InputError if in float it is fast enough, or if no time is left for what is needed: where it is an answer in
    INT8, only to hand that over.
    """
    config, target, began_s = bench.config, bench.config.target, time.perf_counter()
    if bench.place.is_here and (least_s := bench.judging_s) > config.budget_s:
        raise _too_short(bench, least_s, f"judging the whole network twice takes {text_from(least_s)}", _steps(config))
    whole = bench.attempt(WHOLE, ("fp32", "int8"))
    took_s = time.perf_counter() - began_s + bench.spared_s
    if target is not None and meets(whole[0], target):
        took = f"{whole[0].latency_ms.value:.3f} ms"
        raise AlwaysRefused(f"--latency {config.latency} is met already: the whole float network takes {took}")
    least = _too_short(bench, took_s, f"the whole network alone took {text_from(took_s)}", _steps(config))
    for steps in (_steps(config), ()) if _is_enough(whole[-1], config) else (_steps(config),):
        if (1 + len(steps)) * took_s + bench.ending_s(MOST_ANSWERS if steps else 1) <= config.budget_s:
            if not steps:
                log.info("the whole network is handed over in INT8 and no other tried: %s", least)
            return whole, "" if steps else str(least)
    raise least


def _is_enough(int8: Tried, config: OptimizeConfig) -> bool:
    """Whether the whole network in INT8 is an answer by itself."""
    target = config.target
    is_fast = int8.ratio.value < _WORTH if target is None else meets(int8, target)
    return is_fast and int8.lost_points.value <= config.max_loss and not config.plan_only


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
        least_s = max(least_s, _SLOWER * ((1 + len(steps)) * each_s + longer.ending_s()))
    unit_s = 60 if least_s > _HOUR_S else 1  # of the text
    least = text_from(math.ceil(least_s / unit_s) * unit_s)
    return AlwaysRefused(
        f"--budget {bench.config.budget} is too short to try anything: {why};"
        f" with {' and '.join(filter(None, (', '.join(parts[:-1]), parts[-1])))} it takes {least} or more"
    )


def _written(
    found: Frontier, recorder: Recorder, bench: Workbench, choice: Choice | None, plan: Plan
) -> StageResult[FrontierFile]:
    out_dir, config = bench.out_dir, bench.config
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
    spent = ", ".join(f"{what} {text_from(max(1.0, seconds))}" for what, seconds in found.spent_s.items())
    recorder.notes.append(f"time went for: {spent}")
    if config.plan_only:
        source, trying = typed(bench.source.path), config.model_copy(update={"plan_only": False})
        command = command_with(f"edgeres optimize {source}", trying, plan=out_dir / PLAN_NAME, on=found.board)
        recorder.notes += [
            *(choice.lines_of(plan, found.lost_are) if choice else plan.lines(found.lost_are)),
            f"to try them: {command}",
        ]
    else:
        recorder.notes += [*_off(plan, found.tried), *lines_of(found)]
        if not found.board and any(one.tried.precision == "int8" for one in found.results):
            run = Run(Path(next(one.folder for one in reversed(found.results) if one.tried.precision == "int8")))
            recorder.notes.append(f"INT8 files here are {FOR_A_CPU.format(advised('edgeres quantize', run))}")
        shutil.rmtree(out_dir / "tried")
        (out_dir / "tried.json").unlink(missing_ok=True)
    if (home := run_holding(output.path)) is not None:
        recorder.notes.append(f"a page with all that was tried: edgeres report {home.typed}")
    (out_dir / "latency.json").unlink(missing_ok=True)
    return StageResult(output, recorder.finish(output))
