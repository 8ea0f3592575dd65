"""`edgeres optimize [NETWORK]`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeres.cli.options import given, options_of, refuse_timeout, timeout_on_a_board
from edgeres.cli.output import print_result
from edgeres.core.config import config_from
from edgeres.core.errors import StageError
from edgeres.core.progress import budget_runs_from
from edgeres.core.records.frontier import Frontier, missed_in
from edgeres.models.importing import ImportConfig
from edgeres.optimize.config import OptimizeConfig

_OWN = frozenset(OptimizeConfig.model_fields)


@click.command(
    help="From a network and a budget to three networks: accurate, balanced and fast, each with its ONNX files, its"
    " recipe and its report. NETWORK: a checkpoint, weights, an ONNX file or package.module:function. Exit code: 1 if"
    " --latency or --max-loss is missed; what comes nearest is handed over all the same."
)
@click.argument("source", required=False, type=click.Path(path_type=Path), metavar="[NETWORK]")
@options_of(OptimizeConfig)
@options_of(ImportConfig, skip=_OWN | {"file"})
@timeout_on_a_board
@click.option("--on", metavar="NAME", help="Build, time and decide on this board instead (edgeres board add).")
@click.option("--run", "--in-run", "run", help="Run (name or folder) to work in.  [default: the network's]")
@click.option("--json", "as_json", is_flag=True, help="The report as JSON on stdout.")
def optimize(source: Path | None, run: str | None, on: str | None, as_json: bool, **values: Any) -> None:
    chosen = given(values)
    if on is None:
        refuse_timeout(chosen)
    said = {"data": "", **{name: value for name, value in chosen.items() if name in _OWN}}
    config_from(OptimizeConfig, said, "optimize", as_options=True).check()  # before torch is imported
    from edgeres.optimize.calls import optimize_call

    own = {name: value for name, value in chosen.items() if name in _OWN | {"timeout_s"}}
    brought = {name: value for name, value in chosen.items() if name not in own}
    with budget_runs_from(click.get_current_context().obj):
        result = optimize_call(source, run, own, brought, on or "")
    print_result(result.report, as_json=as_json)
    if missed := missed_in(Frontier.model_validate(result.report.results["frontier"])):
        raise StageError(f"optimize: {'; '.join(missed)}")
