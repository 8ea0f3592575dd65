"""The whole road in one command: `edgeres run RECIPE`, `edgeres rerun [RUN]` and `edgeres optimize [NETWORK]`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from edgeres.bench.boards import board_named
from edgeres.cli.options import given, options_of, refuse_timeout, timeout_on_a_board
from edgeres.cli.output import print_boards, print_result, print_summary
from edgeres.cli.terminal import say
from edgeres.core.amounts import counted
from edgeres.core.config import config_from, words_of
from edgeres.core.errors import EdgeresError, InputError, StageError
from edgeres.core.lineage import advised
from edgeres.core.progress import budget_runs_from
from edgeres.core.records.frontier import Frontier, missed_in
from edgeres.core.runs import Run, run_named
from edgeres.core.safe_text import typed
from edgeres.core.stage import StageReport
from edgeres.models.importing import ImportConfig
from edgeres.optimize.config import OptimizeConfig
from edgeres.pipeline.board_calls import board_of_run, check_board
from edgeres.pipeline.calls import Call
from edgeres.pipeline.chain import Chain, Done, redo_index, run_of_recipe
from edgeres.pipeline.recipe import Step, functions_of, lacking_on_a_board, planned, recipe_from
from edgeres.pipeline.rerun import name_for, recipe_of, recorded_of, rerun_verdict
from edgeres.report.boards import file_name
from edgeres.report.stage import ReportConfig
from edgeres.report.stage import report as report_on

_OPTIMIZES = frozenset(OptimizeConfig.model_fields)
_COLOURS = {"identical": "green", "agrees": "green", "differs": "red", "not judged": "yellow"}


@click.command(help="Run a recipe: a .toml file or a shipped one (edgeres ls recipes). Finished stages are reused.")
@click.argument("recipe")
@click.option("--name", help="Name of the run.  [default: the recipe's]")
@click.option("--data", help="Data set for every stage that takes images.")
@click.option("--set", "settings", multiple=True, metavar="STAGE.OPTION=VALUE", help="Change an option of the recipe.")
@click.option("--from", "redo_from", metavar="STAGE", help="Run again from this stage on, finished or not.")
@click.option("--on", metavar="NAME", help="At the end, measure the whole network and the last files there.")
@click.option("--dry-run", is_flag=True, help="Check the recipe, print its steps, run nothing.")
@click.option("--json", "as_json", is_flag=True, help="All reports as JSON lines on stdout.")
def run(  # noqa: PLR0913  # one parameter per option
    recipe: str,
    name: str | None,
    data: str | None,
    settings: tuple[str, ...],
    redo_from: str | None,
    on: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    options = {
        "name": name,
        "data": data,
        "from": redo_from,
        "on": on,
        "dry_run": dry_run or None,
        "json": as_json or None,
    }
    also = "".join(f" {word}" for word in (*words_of(options), *(f"--set {typed(one)}" for one in settings)))
    naming = f"edgeres run {typed(recipe)}{also} --set import.file="
    content, steps = recipe_from(recipe, _overrides(settings, data), naming=naming)
    start = redo_index(steps, redo_from) if redo_from else None
    if on is not None:
        board_named(on)
    if missing := lacking_on_a_board(steps, on):
        say(f"warning: {missing}", err=True)
    if dry_run:
        _print_steps(steps, on, as_json=as_json)
        for name in dict.fromkeys(name for step in steps for _, name in functions_of(step)):
            say(f"not checked: {name} is called by the run alone; its module is here", err=True)
        return
    if on is not None:
        check_board(on)  # before hours of work rather than after
    chain = Chain(run_of_recipe(content, name), steps, start)
    for done in chain.execute():
        _print_done(done, chain, as_json=as_json, is_last=on is None)
    if on is None:
        chain.run.say_if_page_is_older()
    else:
        own = (step.config for step in steps if isinstance(step.config, ReportConfig))  # the recipe's, if it has one
        built = any((step.use, step.on) == ("compile", on) for step in steps)
        _on_board(chain.run, on, next(own, ReportConfig()), built=built, as_json=as_json)


def _on_board(run: Run, on: str, config: ReportConfig, *, built: bool, as_json: bool) -> None:
    """Measures on the board; then the run's one table, also where the board could not do it.

    `built`: whether the run keeps an engine of the board's.
    """
    if not as_json:
        say(click.style(f"board {on}", bold=True))
    found: list[StageReport] = []
    problem: EdgeresError | None = None
    try:
        found.extend(board_of_run(run, Call("run --on", on=on)))
    except EdgeresError as err:
        problem = err
    if found:
        print_boards(found, as_json=as_json)
    if found and found[-1].source and not (built or as_json):
        say(f"no engine stays there; to have it: {advised('edgeres compile', found[-1].source.path, on=on)}")
    print_summary(report_on(run.path, config), run.path, as_json=as_json)
    if problem:
        raise problem


def _overrides(settings: tuple[str, ...], data: str | None) -> dict[str, str]:
    pairs = {"data": data} if data else {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise InputError(f"--set {setting}: should be STAGE.OPTION=VALUE, as in prune.drop=4")
        if key in pairs:
            raise InputError(f"--set {key} is given twice; the values of a list stand in one: A,B")
        pairs[key] = value
    return pairs


def _print_steps(steps: list[Step], on: str | None, *, as_json: bool) -> None:
    rows = [(step.folder_name, step.use, _said(step)) for step in steps]
    rows += [("NN-board", "board", {"on": on})] if on is not None else []
    for folder, use, values in rows:
        if as_json:
            click.echo(json.dumps({"folder": folder, "stage": use, "config": values}))
        else:
            say(f"{folder:14} {' '.join(f'{key}={value}' for key, value in values.items())}")


def _said(step: Step) -> dict[str, Any]:
    """What the recipe says of it."""
    where = {"on": step.on} if step.on else {}
    return where | step.config.model_dump(mode="json", exclude_unset=True)


def _print_done(done: Done, chain: Chain, *, as_json: bool, is_last: bool) -> None:
    """The stage's figures; the run's table only where nothing `is_last` comes after it.

    A warning is printed once a step; those that an earlier call printed are counted: report and page list them all.
    """
    if not as_json:
        head = f"[{done.step.index + 1}/{len(chain.steps)}] {done.step.use}" + (" (reused)" if done.reused else "")
        say(click.style(head, bold=True))
    said: list[str] = []
    for report in done.reports:
        new = [one for one in report.warnings if one not in said]
        said += new
        shown = report.model_copy(update={"warnings": () if done.reused else new})
        print_result(
            report if as_json else shown, as_json=as_json, whose=file_name(report) if len(done.reports) > 1 else None
        )
    if said and done.reused and not as_json:
        say(f"{counted(len(said), 'warning')} as before, listed by: edgeres report {chain.run.typed}", err=True)
    if done.summary is not None and is_last:
        print_summary(done.summary, done.where, as_json=as_json)


@click.command(
    help="Run a run (name or folder) again, from its recorded options and seeds, into a new run, and say of every"
    " stage whether the numbers agree. Exit code: 1 if one differs.  [default: runs/latest]"
)
@click.argument("run", required=False)
@click.option("--name", help="Name of the new run; an unfinished one goes on.  [default: RUN-again]")
@click.option("--data", help="Data set for every stage that takes images; a function is never taken from the record.")
@click.option("--source", metavar="MODULE:FUNCTION", help="The function that made the network of a run begun with one.")
@click.option("--json", "as_json", is_flag=True, help="The verdict as JSON on stdout.")
def rerun_command(run: str | None, name: str | None, data: str | None, source: str | None, as_json: bool) -> None:
    old = run_named(run)
    recipe = recipe_of(old, data, source)
    chosen = name_for(old, name)
    steps = planned(recipe, str(old.path))
    again = run_of_recipe(recipe, chosen)
    on = "".join(f" --{option} {typed(value)}" for option, value in (("data", data), ("source", source)) if value)
    say(f"into {again.path}; if interrupted: edgeres rerun {old.typed} --name {typed(chosen)}{on}", err=True)
    for done in Chain(again, steps, recorded=recorded_of(old, steps)).execute():
        say(f"[{done.step.index + 1}/{len(steps)}] {done.step.use}{' (reused)' if done.reused else ''}", err=True)
    verdict = rerun_verdict(old, again)
    if as_json:
        click.echo(verdict.model_dump_json())
    width = max(len(stage.stage) for stage in verdict.stages)
    for stage in () if as_json else verdict.stages:
        say(f"{click.style(f'{stage.outcome:10}', fg=_COLOURS[stage.outcome])}  {stage.stage:{width}}  {stage.text}")
    if verdict.differing:
        raise StageError(f"rerun: {len(verdict.differing)} of {len(verdict.stages)} stages of {verdict.run} differ")


@click.command(
    help="From a network and a budget to three networks: accurate, balanced and fast, each with its ONNX files, its"
    " recipe and its report. NETWORK: a checkpoint, weights, an ONNX file or package.module:function. Exit code: 1 if"
    " --latency or --max-loss is missed; what comes nearest is handed over all the same."
)
@click.argument("source", required=False, type=click.Path(path_type=Path), metavar="[NETWORK]")
@options_of(OptimizeConfig)
@options_of(ImportConfig, skip=_OPTIMIZES | {"file"})
@timeout_on_a_board
@click.option("--on", metavar="NAME", help="Build, time and decide on this board instead (edgeres board add).")
@click.option("--run", "--in-run", "run", help="Run (name or folder) to work in.  [default: the network's]")
@click.option("--json", "as_json", is_flag=True, help="The report as JSON on stdout.")
def optimize(source: Path | None, run: str | None, on: str | None, as_json: bool, **values: Any) -> None:
    chosen = given(values)
    if on is None:
        refuse_timeout(chosen)
    said = {"data": "", **{name: value for name, value in chosen.items() if name in _OPTIMIZES}}
    config_from(OptimizeConfig, said, "optimize", as_options=True).check()  # before torch is imported
    from edgeres.optimize.calls import optimize_call

    own = {name: value for name, value in chosen.items() if name in _OPTIMIZES | {"timeout_s"}}
    brought = {name: value for name, value in chosen.items() if name not in own}
    with budget_runs_from(click.get_current_context().obj):
        result = optimize_call(source, run, own, brought, on or "")
    print_result(result.report, as_json=as_json)
    if missed := missed_in(Frontier.model_validate(result.report.results["frontier"])):
        raise StageError(f"optimize: {'; '.join(missed)}")
