"""Runs a run again, from its recorded options and seeds, and says of every stage whether the numbers agree.

    identical    the same file, bit for bit
    agrees       cost, precision and modules are exactly the same, and the paired 95 % interval of the accuracies (or,
                 for latencies on one machine, their two intervals) does not tell the two apart
    differs      it does, or a figure that must be the same is not
    not judged   nothing to judge by: the file differs and was not evaluated, another machine, ...

The recipe is recipe.toml, or, where the run was made by single commands, what their reports say. The paired interval
holds the luck of the images, not that of a training: where threads make a training irreproducible, two trainings
may well differ.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic_core import to_jsonable_python

from edgeres.core.config import Record, config_from
from edgeres.core.errors import InputError
from edgeres.core.names import function_meant, is_function_name
from edgeres.core.runs import RECIPE_NAME, Run, new_run, runs_root
from edgeres.core.stage import StageReport
from edgeres.core.statistics import percentile_interval
from edgeres.evaluate.agreement import Pair
from edgeres.pipeline.recipe import (
    MEASURES,
    ON_BOARDS,
    Recipe,
    Step,
    config_of,
    overridden,
    planned,
    recipe_from,
    refuse_functions,
)
from edgeres.pipeline.stages import STAGES
from edgeres.report.changes import accuracy_line, matched, networks_matched
from edgeres.report.folder import BOARD_STAGE, STRAY, FinishedStage, run_folder_from
from edgeres.report.networks import StageNetwork, networks_in, pair_of

_CERTAIN = ("precision", "params", "macs", "dropped")  # figures that do not depend on chance
_UNREAD = re.compile(rf"report\.json (is not a readable|was written by a later)|{STRAY}")

Outcome = Literal["identical", "agrees", "differs", "not judged"]
Judged = tuple[Outcome, str]


class Agreed(Record):
    """One stage of the run, and of it again."""

    stage: str
    outcome: Outcome
    text: str


class Rerun(Record):
    """All stages of both runs; `again` is the new run's folder."""

    schema_version: int = 1
    run: str
    again: str
    stages: tuple[Agreed, ...]

    @property
    def differing(self) -> tuple[Agreed, ...]:
        """Stages whose numbers do not agree."""
        return tuple(stage for stage in self.stages if stage.outcome == "differs")


def recipe_of(run: Run, data: str | None = None, source: str | None = None) -> Recipe:
    """What to do to get the run again, on the data set and with the function the user names, or as recorded.

    Raises InputError if nothing is finished, if stages were made by hand from sources a recipe cannot name, or if the
    network is a function that the user has not named.
    """
    overrides = {"data": data} if data else {}
    if source:
        if is_function_name(source):
            overrides["import.file"] = source
        else:
            raise InputError(f"--source {source} should read package.module:function{function_meant(source)}")
    again = f"edgeres rerun {run.typed} --source "
    if (run.path / RECIPE_NAME).is_file():
        return recipe_from(str(run.path / RECIPE_NAME), overrides, naming=again)[0]
    folder = run_folder_from(run.path)
    stages = folder.stages
    if damaged := [problem for problem in folder.problems if _UNREAD.search(problem)]:
        raise InputError(f"{run.path} cannot be run again, a part of its record cannot be read: {damaged[0]}")
    _check_sources(stages)
    own, repeated = {stage.name for stage in stages}, [stage for stage in stages if stage.report.stage != BOARD_STAGE]
    for stage in repeated:
        if (use := stage.report.stage) not in STAGES and use not in MEASURES:
            raise InputError(f"{stage.path}: no stage {use!r} is known here; it was made by another version")
    entries = [_entry_of(stage.report, own) for stage in repeated]
    if evaluated := [stage.evaluation for stage in stages if stage.evaluation]:
        asked = _options_of("eval", evaluated[-1], own)
        asked.pop("metric", None)  # a function is never taken from the record
        entries.append({"use": "eval", **asked})
    values = {"name": run.name, "about": f"{run.name}, from the reports of its stages", "stage": entries}
    recipe = overridden(config_from(Recipe, values, str(run.path)), overrides)
    refuse_functions(planned(recipe, str(run.path)), str(run.path), typed=overrides.values(), naming=again)
    return recipe


def recorded_of(run: Run, steps: Sequence[Step]) -> dict[str, dict[str, Any]]:
    """Folder of a step -> the results of the stage of `run` that it makes again, where a --budget had a say in them."""
    left, found = list(run_folder_from(run.path).stages), dict[str, dict[str, Any]]()
    for step in steps:
        old = next((stage for stage in left if stage.report.stage == step.use), None)
        if old is not None:
            left.remove(old)
            if getattr(step.config, "budget", None) is not None:
                found[step.folder_name] = dict(old.report.results)
    return found


def name_for(run: Run, name: str | None) -> str:
    """The new run's name; raises InputError for a name that is the old run's own."""
    if name is None:
        return new_run(f"{run.name}-again").name
    if not name:
        raise InputError("--name is empty; name the new run, or leave it out")
    if (runs_root() / name).resolve() == run.path.resolve():
        raise InputError(f"--name {name} is the run itself; its files are what the new ones are held against")
    if (runs_root() / name).is_dir() and not (runs_root() / name / RECIPE_NAME).is_file():
        raise InputError(f"--name {name} is another run, which no recipe made; name a new one")
    return name


def rerun_verdict(run: Run, again: Run) -> Rerun:
    """One line a stage on whether `again` has the numbers of `run`; raises InputError if one cannot be read."""
    old, new = run_folder_from(run.path), run_folder_from(again.path)
    networks = {
        pair[0].name: pair for pair in networks_matched(networks_in(old), networks_in(new)) if pair[0] is not None
    }
    found = []
    for before, after in matched(old.stages, new.stages):
        if before is None:
            continue
        if after is None:
            outcome, text = "not judged", "the new run has no such stage"
        elif before.name in networks:
            outcome, text = _network_verdict(*networks[before.name])
        else:
            outcome, text = _stage_verdict(before, after)
        found.append(Agreed(stage=before.name, outcome=outcome, text=text))
    return Rerun(run=run.name, again=str(again.path), stages=tuple(found))


def _network_verdict(before: StageNetwork, after: StageNetwork | None) -> Judged:
    if after is None:
        return "not judged", "the new run made no network here"
    certain = [(name, getattr(before, name), getattr(after, name)) for name in _CERTAIN]
    if unequal := [f"{name}: {a} -> {b}" for name, a, b in certain if a != b]:
        return "differs", "; ".join(unequal)
    pair = pair_of(before, after)
    if before.sha256 == after.sha256:
        is_off = isinstance(pair, Pair) and pair.same < pair.n
        text = accuracy_line(before, after, pair) if isinstance(pair, Pair) else "the same file"
        return "agrees" if is_off else "identical", text
    if isinstance(pair, str):
        return "not judged", f"the file differs, and {pair}"
    is_within = pair.points.low <= 0 <= pair.points.high
    return "agrees" if is_within else "differs", accuracy_line(before, after, pair)


def _stage_verdict(before: FinishedStage, after: FinishedStage) -> Judged:
    """Of a stage that makes no network."""
    a, b = before.report, after.report
    if a.latency or a.stage == "bench":
        return _latency_verdict(a, b)
    if a.output and b.output and a.output.sha256 == b.output.sha256:
        return "identical", "the same file"
    if a.accuracy and [one.correct_top1 for one in a.accuracy] == [one.correct_top1 for one in b.accuracy]:
        return "agrees", f"every accuracy the same ({len(a.accuracy)})"
    if a.source and b.source and a.source.sha256 != b.source.sha256:
        return "not judged", "its input is not the same file"
    if a.stage in {"latency", "sweep"}:
        return "not judged", "holds latencies of its own session"
    return "differs", "another result from the same input"


def _latency_verdict(before: StageReport, after: StageReport) -> Judged:
    pairs = list(zip(before.latency, after.latency, strict=False))
    if not pairs or len(before.latency) != len(after.latency):
        return "not judged", "not the same models were timed"
    modes = [[(x.machine, x.batch, x.threads, x.runtime) for x in side] for side in (before.latency, after.latency)]
    if modes[0] != modes[1]:
        return "not judged", "latencies of another machine or mode"
    apart = []
    for a, b in pairs:
        p, q = percentile_interval(a, 50), percentile_interval(b, 50)
        if p.high < q.low or q.high < p.low:
            apart.append(f"p50 {p.value:.3f} -> {q.value:.3f} ms ({a.runtime})")
    if apart:
        why = "outside both intervals, which hold no drift of the machine between the runs"
        return "differs", f"{'; '.join(apart)}: {why}"
    return "agrees", f"{len(pairs)} medians within their intervals"


def _entry_of(report: StageReport, own: Collection[str]) -> dict[str, Any]:
    """Of an engine built on a board with that board; what boards measured is not judged and not measured again."""
    entry = {"use": report.stage, **_options_of(report.stage, report, own)}
    return {**entry, "on": report.results["on"]} if report.stage in ON_BOARDS and report.results.get("on") else entry


def _options_of(use: str, report: StageReport, own: Collection[str]) -> dict[str, Any]:
    """The options that differ from today's defaults, without what came from the run, whose folders are its `own`."""
    row = STAGES.get(use)
    kind = config_of(use)
    taken = {name for name in (row.fills if row else ()) if Path(str(report.config.get(name))).parent.name in own}
    asked = report.config.items() if row else ()
    old = [(name, value) for name, value in asked if name not in kind.model_fields and kind.gone.get(name) != value]
    if gone := [f"{name} {value}" for name, value in old if value]:
        raise InputError(
            f"{use} was asked for {', '.join(gone)}; this version has no such option: nothing to run again"
        )
    known = {name: field for name, field in kind.model_fields.items() if name not in {*kind.incidental, *taken}}
    usual = {name: to_jsonable_python(field.get_default()) for name, field in known.items() if not field.is_required()}
    given = {name: value for name, value in report.config.items() if name in known and value is not None}
    return {name: value for name, value in given.items() if name not in usual or value != usual[name]}


def _check_sources(stages: Sequence[FinishedStage]) -> None:
    """A recipe gives each stage the newest network it can work on: raises InputError where the run did not."""
    for index, stage in enumerate(stages):
        row, source = STAGES.get(stage.report.stage), stage.report.source
        if row is None or row.source is None or source is None:
            continue
        fitting = [(one, made) for one in stages[:index] if (made := one.report.output) and one.report.cost]
        fitting = [(one, made) for one, made in fitting if Path(made.path).suffix == row.source.suffix]
        fitting = [
            (one, made) for one, made in fitting if row.takes(one.report.precision, one.report.results.get("profile"))
        ]
        if not fitting:
            raise InputError(f"{stage.path} was made from {source.path}, which is not of this run: nothing to begin at")
        usual, made = fitting[-1]
        if made.sha256 != source.sha256:
            raise InputError(
                f"{stage.path} was made from {source.path} and not from the newest network, {usual.name}:"
                " a run like this cannot be run again as one recipe; run its stages one by one"
            )
