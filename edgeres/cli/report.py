"""`edgeres report [RUN]` and `edgeres gate [RUN]`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeres.bench.boards import HERE, board_named
from edgeres.cli.options import given, options_of
from edgeres.cli.output import print_summary
from edgeres.cli.terminal import say
from edgeres.core.config import config_from
from edgeres.core.errors import InputError, StageError
from edgeres.core.runs import run_named
from edgeres.report.boards import boards_that_measured
from edgeres.report.gate import gate, write_junit
from edgeres.report.gate_rules import GateConfig
from edgeres.report.stage import ReportConfig
from edgeres.report.stage import report as report_on


@click.command(help="One table and one page for a run (name or folder).  [default: runs/latest]")
@click.argument("run", required=False)
@options_of(ReportConfig)
@click.option("--json", "as_json", is_flag=True, help="The table as JSON on stdout.")
def report(run: str | None, as_json: bool, **values: Any) -> None:
    found = run_named(run)
    config = config_from(ReportConfig, given(values), "report", as_options=True)
    print_summary(report_on(found.path, config), found.path, as_json=as_json)


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
    config = config_from(GateConfig, given(values), "gate", as_options=True)
    config.check()
    path = run_named(run).path
    if config.on not in {None, HERE} | boards_that_measured(path):
        board_named(str(config.on))
    report = gate(path, config)
    if junit is not None and junit.suffix != ".xml":
        raise InputError(f"--junit {junit}: gate writes an .xml file; name it so")
    if junit is not None:
        write_junit(report, junit)
    if as_json:
        click.echo(report.model_dump_json())
    width = max(len(outcome.rule) for outcome in report.outcomes)
    for outcome in () if as_json else report.outcomes:
        mark = click.style("pass", fg="green") if outcome.passed else click.style("FAIL", fg="red")
        say(f"{mark}  {outcome.rule:{width}}  {outcome.stage}: {outcome.text}")
    for note in report.notes:
        say(f"warning: {note}", err=True)
    if report.broken:
        raise StageError(f"gate: {len(report.broken)} of {len(report.outcomes)} rules broken by {report.run}")
