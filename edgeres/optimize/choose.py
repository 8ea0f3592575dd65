"""Chooses the sets that are worth trying: what each module costs by the clock, and what a set loses, both measured.

What the latency asked for needs is searched first. Then ever more is asked to be saved of what all modules take, with
one search that keeps what it has measured, until sets lose far more than is allowed; then what lies between is searched
more closely, while choosing has time. Asked again with more time, it goes on from there, and so does another search of
the run, whatever its budget and goals: what sets lose does not depend on them.
"""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from edgeres.core.amounts import Target, counted
from edgeres.core.files import scratch_in, write_text
from edgeres.core.metrics import Interval
from edgeres.core.progress import seconds_from
from edgeres.core.records.frontier import Precision
from edgeres.core.records.latency import LatencyConfig, LatencyTable, latency_table_from
from edgeres.core.runs import run_holding
from edgeres.core.stage import StageReport
from edgeres.costs.stage import latency_table
from edgeres.costs.table import classes_to_time, doubts, predicted_ms
from edgeres.optimize.plan import Plan, PlannedSet
from edgeres.optimize.tries import Workbench
from edgeres.prune.choose import JOURNAL_NAME, Chooser
from edgeres.prune.config import PruneConfig
from edgeres.prune.sets import Found, Goal

CHOOSING_SHARE = 1 / 3  # of the budget
_SHARES = (0.25, 0.5, 0.625, 0.75, 0.125, 0.375)  # of what all modules cost; each size on the way is found too
_AIM = 0.99  # of what is tried for: by so much the sum of what modules cost may be wrong
_HOPELESS = 3.0  # times what may be lost, after cheap repairs: a whole refit takes about half of it back
_TABLES = 3  # at most, until one is not in doubt
_TABLE_SHARE = 1 / 1000  # of the budget, for each network of the table
_SHORTEST_S, _LONGEST_S = 0.3, 2.0
_LUCKY = 5  # images that one set rather than another gets right: about two standard errors
_DECIDE = ("data", "images", "seed")  # what is measured of a set of modules
_DECIDED = "it only says which sets are tried, of which the clock decides"
_MORE = 3  # networks of the table beyond its shapes: what is chosen by it is timed itself
log = logging.getLogger(__name__)


@dataclass
class Choice:
    """The plan, what each module costs, what it loses alone, and what speaks against relying on that.

    `step_s`: what the longest search took; infinite if there is nothing more to search.
    """

    plan: Plan
    table: LatencyTable
    alone: dict[str, float]
    warnings: list[str]
    step_s: float

    def lines_of(self, plan: Plan, lost_are: str) -> Iterable[str]:
        """What will be tried of a plan that was chosen by this table."""
        return plan.lines(lost_are, by_profile=self.table.method == "profile")


def chosen(bench: Workbench, precision: Precision, whole: Interval, *, until_s: float) -> Choice:
    """What to try of a network whose latency in `precision` is `whole` of float.

    `until_s`, on time.perf_counter: when to be done.
    """
    config = bench.config
    options = {"images": bench.choose_on, "choose_on": bench.choose_on, "keep": config.keep, "seed": config.seed}
    asked = PruneConfig(drop=1, data=config.data, recover=("solve",), download=config.download, **options)
    _take_over(bench)
    chooser = Chooser(bench.source, asked, bench.out_dir)
    table = _table(bench, precision, until_s=until_s)
    gain = {name: table.saved_ms[name] for name in chooser.candidates}
    aim = _aim(config.aim, table, whole, gain)
    found, step_s = _searched(chooser, gain, aim, hopeless=_HOPELESS * config.max_loss, until_s=until_s)
    sets = [_planned(one, table, whole, lost=-chooser.points(one.dropped)) for one in found]
    plan = Plan(
        model_sha256=bench.source.sha256,
        precision=precision,
        images=chooser.images,
        tries=tuple(sorted(_undominated(sets, 100 * _LUCKY / chooser.images), key=lambda one: -one.ratio[0])),
    )
    return Choice(plan, table, chooser.lost_by_module(), doubts(table, then=_DECIDED), step_s)


def _take_over(bench: Workbench) -> None:
    """Copies what the newest search of the run on the same images measured; the chooser holds its key against it."""
    journal, run = bench.out_dir / JOURNAL_NAME, run_holding(bench.out_dir / JOURNAL_NAME)
    asked = [getattr(bench.config, name) for name in _DECIDE]
    for folder, report in reversed([*run.reports()] if run and not journal.exists() else []):
        before = folder.path / JOURNAL_NAME
        is_alike = report.stage == "optimize" and [report.config.get(name) for name in _DECIDE] == asked
        is_of_it = report.source is not None and report.source.sha256 == bench.source.sha256
        if is_alike and is_of_it and before.is_file() and _chose_on(report, bench) == bench.choose_on:
            log.info("choosing goes on from what %s measured", folder.path)
            shutil.copyfile(before, journal)
            return


def _chose_on(report: StageReport, bench: Workbench) -> int:
    return bench.at(seconds_from(report.config["budget"])).choose_on


def _searched(
    chooser: Chooser, gain: Mapping[str, float], aim: Goal | None, *, hopeless: float, until_s: float
) -> tuple[Sequence[Found], float]:
    """The best set of every size, and how long the longest search took.

    No deeper ones are searched than lose `hopeless` points. Of its size the best that reaches `aim` stands for a milder
    one that does not.
    """
    most = sum(value for value in gain.values() if value > 0)
    goals = [*filter(None, [aim]), *(Goal(gain, most * share) for share in _SHARES)]
    found: dict[int, Found] = {}
    aimed: list[Found] = []
    deepest, step_s = math.inf, 0.0
    for goal in goals:
        if goal.needed > deepest:
            continue
        if found and time.perf_counter() + step_s > until_s:
            break
        began_s = time.perf_counter()
        searched = chooser.choose(goal)
        for one in searched.levels:
            before = found.setdefault(len(one.dropped), one)
            found[len(one.dropped)] = min(before, one, key=lambda each: each.score)
        aimed += [searched.best] if goal is aim else []
        size = len(searched.best.dropped)
        log.info("choosing: searched sets of up to %s", counted(size, "module"))
        if -chooser.points(searched.best.dropped) > hopeless:
            deepest = goal.needed
        step_s = max(step_s, time.perf_counter() - began_s)
    else:
        step_s = math.inf
    if aim is not None:
        aimed += [one for one in found.values() if aim.is_reached(frozenset(one.dropped))]
        best = min(aimed, key=lambda each: each.score)
        found[len(best.dropped)] = best
    return [*found.values()], step_s


def _aim(target: Target | None, table: LatencyTable, whole: Interval, gain: Mapping[str, float]) -> Goal | None:
    """What is to be saved for the latency asked for; None where none is, it is met, or all modules are too few."""
    if target is None:
        return None
    took_ms = table.whole_ms.value
    asked_ms = target.value * (took_ms / whole.value if target.is_ratio else 1.0)
    goal = Goal(gain, took_ms - _AIM * asked_ms)
    useful = frozenset(goal.useful([*gain]))
    return goal if asked_ms < took_ms and goal.is_reached(useful) else None


def _table(bench: Workbench, precision: Precision, *, until_s: float) -> LatencyTable:
    """What each module costs; of an interrupted call if it is there."""
    path = bench.out_dir / "latency.json"
    if not path.is_file():
        log.info("timing what each module costs, in %s", precision)
        if bench.place.costs is None:
            table = _timed(bench, precision, until_s=until_s)
        else:
            with scratch_in(bench.out_dir) as folder:
                table = bench.place.costs(bench.in_precision(precision), folder)
        write_text(path, table.model_dump_json())
    return latency_table_from(path)


def _timed(bench: Workbench, precision: Precision, *, until_s: float) -> LatencyTable:
    """The most certain of a few tables: another as long as all were disturbed, and there is time until `until_s`."""
    config = bench.config
    seconds = min(max(_TABLE_SHARE * config.budget_s, _SHORTEST_S), _LONGEST_S)
    own = {"batch": config.batch, "threads": config.threads, "seed": config.seed}
    networks = len(classes_to_time(bench.source)) + _MORE
    how = LatencyConfig(precision=precision, seconds=seconds, networks=networks, **own)
    tables, took_s = list[LatencyTable](), 0.0
    while not tables or (doubts(tables[-1]) and len(tables) < _TABLES and time.perf_counter() + took_s < until_s):
        if tables:
            log.info("networks differ by %s from the sum of their modules, timing them again", tables[-1].misfit)
        began_s = time.perf_counter()
        with scratch_in(bench.out_dir) as folder:
            made = latency_table(bench.source, how, folder, measure=bench.place.measure_files)
            tables.append(latency_table_from(made.output.path))
        took_s = time.perf_counter() - began_s
    return min(tables, key=lambda one: abs(one.fit_error))


def _planned(one: Found, table: LatencyTable, whole: Interval, *, lost: float) -> PlannedSet:
    """What the table says of a set, as a share of the whole float network's latency.

    Its interval holds what the table does not know and what is not known of `whole`; there is none by the profile of
    one engine or a table in doubt: on a busy core what was measured lay outside.
    """
    share = predicted_ms(table, one.dropped).times(whole.value / table.whole_ms.value)
    half = math.hypot(share.high - share.value, share.value * whole.precision)
    is_bounded = table.method != "profile" and not doubts(table)
    figures = (share.value, *((share.value - half, share.value + half) if is_bounded else ()))
    return PlannedSet(drop=one.dropped, ratio=tuple(round(one, 4) for one in figures), lost=round(lost, 2) + 0.0)


def _undominated(sets: Sequence[PlannedSet], luck: float) -> list[PlannedSet]:
    """Without those that another one beats in both; of what they lose, `luck` is by the images that were drawn."""
    return [
        one
        for one in sets
        if not any(other.ratio[0] < one.ratio[0] and (other.lost or 0) + luck < (one.lost or 0) for other in sets)
    ]
