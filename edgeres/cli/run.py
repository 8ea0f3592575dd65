"""`edgeres run RECIPE`."""

from __future__ import annotations

import json

import click

from edgeres.cli.output import print_result, print_summary
from edgeres.core.errors import InputError
from edgeres.pipeline.chain import Chain, Done, redo_index, run_of_recipe
from edgeres.pipeline.recipe import Step, recipe_from


@click.command(help="Run a recipe: a .toml file or a shipped one (edgeres ls recipes). Finished stages are reused.")
@click.argument("recipe")
@click.option("--name", help="Name of the run.  [default: the recipe's]")
@click.option("--data", help="Data set for every stage that takes images.")
@click.option("--set", "settings", multiple=True, metavar="STAGE.OPTION=VALUE", help="Change an option of the recipe.")
@click.option("--from", "redo_from", metavar="STAGE", help="Run again from this stage on, finished or not.")
@click.option("--dry-run", is_flag=True, help="Check the recipe, print its steps, run nothing.")
@click.option("--json", "as_json", is_flag=True, help="All reports as JSON lines on stdout.")
def run(  # noqa: PLR0913  # one parameter per option
    recipe: str,
    name: str | None,
    data: str | None,
    settings: tuple[str, ...],
    redo_from: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """See the help text."""
    content, steps = recipe_from(recipe, _overrides(settings, data))
    start = redo_index(steps, redo_from) if redo_from else None
    if dry_run:
        _print_steps(steps, as_json=as_json)
        return
    for done in Chain(run_of_recipe(content, name), steps, start).execute():
        _print_done(done, len(steps), as_json=as_json)


def _overrides(settings: tuple[str, ...], data: str | None) -> dict[str, str]:
    pairs = {"data": data} if data else {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise InputError(f"--set {setting}: should be STAGE.OPTION=VALUE, as in prune.drop=4")
        pairs[key] = value
    return pairs


def _print_steps(steps: list[Step], *, as_json: bool) -> None:
    for step in steps:
        values = step.config.model_dump(mode="json", exclude_unset=True)
        if as_json:
            click.echo(json.dumps({"folder": step.folder_name, "stage": step.use, "config": values}))
        else:
            click.echo(f"{step.folder_name:14} {' '.join(f'{key}={value}' for key, value in values.items())}")


def _print_done(done: Done, count: int, *, as_json: bool) -> None:
    if not as_json:
        head = f"[{done.step.index + 1}/{count}] {done.step.use}" + (" (reused)" if done.reused else "")
        click.echo(click.style(head, bold=True))
    for report in done.reports:
        print_result(report, as_json=as_json)
    if done.summary is not None:
        print_summary(done.summary, done.where, as_json=as_json)
