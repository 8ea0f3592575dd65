"""`edgeres optimize [NETWORK]`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeres.cli.options import given, options_of
from edgeres.cli.output import print_result
from edgeres.models.importing import ImportConfig
from edgeres.optimize.config import OptimizeConfig

_OWN = frozenset(OptimizeConfig.model_fields)


@click.command(
    help="From a network and a budget to three networks: accurate, balanced and fast, each with its ONNX files, its"
    " recipe and its report. NETWORK: a checkpoint, weights, an ONNX file or package.module:function."
)
@click.argument("source", required=False, type=click.Path(path_type=Path), metavar="[NETWORK]")
@options_of(OptimizeConfig)
@options_of(ImportConfig, skip=_OWN | {"file"})
@click.option("--run", "--in-run", "run", help="Run (name or folder) to work in.  [default: the network's]")
@click.option("--json", "as_json", is_flag=True, help="The report as JSON on stdout.")
def optimize(source: Path | None, run: str | None, as_json: bool, **values: Any) -> None:
    """See the help text."""
    from edgeres.optimize.stage import optimize_call

    chosen = given(values)
    own = {name: value for name, value in chosen.items() if name in _OWN}
    brought = {name: value for name, value in chosen.items() if name not in _OWN}
    print_result(optimize_call(source, run, own, brought).report, as_json=as_json)
