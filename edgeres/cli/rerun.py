"""`edgeres rerun [RUN]`."""

from __future__ import annotations

import click

from edgeres.cli.terminal import say
from edgeres.core.errors import StageError
from edgeres.core.runs import run_named
from edgeres.pipeline.chain import Chain, run_of_recipe
from edgeres.pipeline.recipe import planned
from edgeres.pipeline.rerun import Rerun, name_for, recipe_of, rerun_verdict

_COLOURS = {"identical": "green", "agrees": "green", "differs": "red", "not judged": "yellow"}


@click.command(
    help="Run a run (name or folder) again, from its recorded options and seeds, into a new run, and say of every"
    " stage whether the numbers agree. Exit code: 1 if one differs.  [default: runs/latest]"
)
@click.argument("run", required=False)
@click.option("--name", help="Name of the new run; an unfinished one goes on.  [default: RUN-again]")
@click.option("--data", help="Data set for every stage that takes images; a function is never taken from the record.")
@click.option("--json", "as_json", is_flag=True, help="The verdict as JSON on stdout.")
def rerun_command(run: str | None, name: str | None, data: str | None, as_json: bool) -> None:
    """See the help text."""
    old = run_named(run)
    recipe = recipe_of(old, data)
    chosen = name_for(old, name)
    steps = planned(recipe, str(old.path))
    again = run_of_recipe(recipe, chosen)
    on = f" --data {data}" if data else ""
    say(f"into {again.path}; if interrupted: edgeres rerun {old.name} --name {chosen}{on}", err=True)
    for done in Chain(again, steps).execute():
        say(f"[{done.step.index + 1}/{len(steps)}] {done.step.use}{' (reused)' if done.reused else ''}", err=True)
    verdict = rerun_verdict(old, again)
    if as_json:
        click.echo(verdict.model_dump_json())
    else:
        _print(verdict)
    if verdict.differing:
        raise StageError(f"rerun: {len(verdict.differing)} of {len(verdict.stages)} stages of {verdict.run} differ")


def _print(verdict: Rerun) -> None:
    width = max(len(stage.stage) for stage in verdict.stages)
    for stage in verdict.stages:
        mark = click.style(f"{stage.outcome:10}", fg=_COLOURS[stage.outcome])
        say(f"{mark}  {stage.stage:{width}}  {stage.text}")
