"""`edgeres report [RUN]`."""

from __future__ import annotations

from typing import Any

import click

from edgeres.cli.options import given, options_of
from edgeres.cli.output import print_summary
from edgeres.core.config import config_from
from edgeres.core.runs import run_named
from edgeres.report.stage import ReportConfig
from edgeres.report.stage import report as report_on


@click.command(help="One table and one page for a run (name or folder).  [default: runs/latest]")
@click.argument("run", required=False)
@options_of(ReportConfig)
@click.option("--json", "as_json", is_flag=True, help="The table as JSON on stdout.")
def report(run: str | None, as_json: bool, **values: Any) -> None:
    """See the help text."""
    found = run_named(run)
    config = config_from(ReportConfig, given(values), "report", as_options=True)
    print_summary(report_on(found.path, config), found.path, as_json=as_json)
