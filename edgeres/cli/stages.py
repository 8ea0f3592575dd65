"""Every stage as a command, generated from its row in STAGES: the source, its options, where the result goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeres.cli.options import given, options_of, refuse_timeout, timeout_on_a_board
from edgeres.cli.output import print_result
from edgeres.core.errors import InputError
from edgeres.core.progress import budget_runs_from
from edgeres.pipeline.calls import Call, call, new_run_of
from edgeres.pipeline.stages import STAGES
from edgeres.prune.config import GOALS


def stage_command(name: str, text: str) -> click.Command:
    """The click command for the stage `name`."""
    row = STAGES[name]

    def command(
        source: Path | None = None,
        run: str | None = None,
        out: Path | None = None,
        as_json: bool = False,
        on: str | None = None,
        **values: Any,
    ) -> None:
        stage, chosen = _redirected(name, given(values))
        if on is None:
            refuse_timeout(chosen)
        with budget_runs_from(click.get_current_context().obj):
            result = call(Call(stage, source, run, out, chosen, on or ""))
        print_result(result.report, as_json=as_json)

    command = click.option("--json", "as_json", is_flag=True, help="The report as JSON on stdout.")(command)
    begins = f"Add to this run (name or folder), or begin it.  [default: {new_run_of(name)}]"
    run_help = begins if row.source is None else "Run (name or folder) to work in.  [default: runs/latest]"
    command = click.option("--run", "--in-run", "run", help=run_help)(command)
    command = click.option(
        "-o", "--out", type=click.Path(path_type=Path), help="Write the result here instead of into a run."
    )(command)
    if name == "prune":
        help_text = "Every number of modules in a range: accuracy and latency of each, as a table and a picture."
        command = click.option("--sweep", metavar="1..12", default=None, help=help_text)(command)
    if row.on_board:
        command = timeout_on_a_board(command)
        command = click.option("--on", metavar="NAME", help="Build on this board instead (edgeres board add).")(command)
    command = options_of(row.config_class(), skip=_positional(name))(command)
    if row.source is not None:
        metavar = f"[{row.source.suffix or 'MODEL'}]"
        argument = click.argument("source", required=False, type=click.Path(path_type=Path), metavar=metavar)
        command = argument(command)
    for field in _positional(name):
        kind = click.Path(path_type=Path) if field == "file" else str
        required = row.config_class().model_fields[field].is_required()
        command = click.argument(field, type=kind, required=required)(command)
    return click.command(name, help=text)(command)


def _redirected(name: str, values: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """`prune --sweep` is a stage of its own, which takes no other goal."""
    if "sweep" not in values:
        return name, values
    if goals := [goal for goal in GOALS if goal in values]:
        raise InputError(f"--sweep is a goal of its own; leave out --{goals[0].replace('_', '-')}")
    return "sweep", values


def _positional(name: str) -> tuple[str, ...]:
    """Config fields that are arguments, not options."""
    return {"train": ("arch",), "import": ("file",)}.get(name, ())
