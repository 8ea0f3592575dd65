"""`edgeres gate [RUN]`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeres.cli.options import given, options_of
from edgeres.cli.terminal import say
from edgeres.core.config import config_from
from edgeres.core.errors import InputError, StageError
from edgeres.core.runs import run_named
from edgeres.report.gate import GateConfig, GateReport, gate, write_junit


@click.command(
    help="Whether a run (name or folder) keeps the rules given: its newest evaluated network against its first."
    " What was not measured breaks its rule. Exit code: 0 all kept, 1 a rule is broken, 2 bad input."
    "  [default: runs/latest]"
)
@click.argument("run", required=False)
@options_of(GateConfig)
@click.option("--junit", type=click.Path(path_type=Path, dir_okay=False), help="Write JUnit XML here too.")
@click.option("--json", "as_json", is_flag=True, help="The verdict as JSON on stdout.")
def gate_command(run: str | None, junit: Path | None, as_json: bool, **values: Any) -> None:
    """See the help text."""
    config = config_from(GateConfig, given(values), "gate", as_options=True)
    config.check()
    report = gate(run_named(run).path, config)
    if junit is not None and junit.suffix != ".xml":
        raise InputError(f"--junit {junit}: gate writes an .xml file; name it so")
    if junit is not None:
        write_junit(report, junit)
    if as_json:
        click.echo(report.model_dump_json())
    else:
        _print(report)
    for note in report.notes:
        say(f"warning: {note}", err=True)
    if report.broken:
        raise StageError(f"gate: {len(report.broken)} of {len(report.outcomes)} rules broken by {report.run}")


def _print(report: GateReport) -> None:
    width = max(len(outcome.rule) for outcome in report.outcomes)
    for outcome in report.outcomes:
        mark = click.style("pass", fg="green") if outcome.passed else click.style("FAIL", fg="red")
        say(f"{mark}  {outcome.rule:{width}}  {outcome.stage}: {outcome.text}")
