"""`edgeres eval [MODEL]`, here or `--on BOARD`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeres.bench.config import BoardConfig
from edgeres.cli.options import given, options_of, refuse_timeout, timeout_on_a_board
from edgeres.cli.output import print_boards, print_result
from edgeres.core.errors import InputError
from edgeres.evaluate.stage import EvalConfig
from edgeres.pipeline.measures import evaluate_call


@click.command(help="Accuracy of a model on the val split: a .safetensors or .onnx file, or the newest of the run.")
@click.argument("source", required=False, type=click.Path(path_type=Path), metavar="[MODEL]")
@options_of(EvalConfig)
@click.option("--replace", is_flag=True, help="Keep it in the run although that was judged on another data set.")
@click.option("--on", metavar="NAME", help="Build and run it on this board instead (edgeres board add).")
@timeout_on_a_board
@click.option("--run", "--in-run", "run", help="Run (name or folder) to take the model from.  [default: runs/latest]")
@click.option("--json", "as_json", is_flag=True, help="The report as JSON on stdout.")
def evaluate(source: Path | None, run: str | None, on: str | None, as_json: bool, replace: bool, **values: Any) -> None:
    """See the help text."""
    chosen = given(values)
    if on is None:
        refuse_timeout(chosen)
        print_result(evaluate_call(source, run, chosen, replace=replace), as_json=as_json)
        return
    from edgeres.pipeline.on_board import BoardCall, evaluate_on_board

    for name in sorted(chosen.keys() - BoardConfig.model_fields | ({"replace"} if replace else set())):
        raise InputError(f"--{name.replace('_', '-')} does not go with --on")
    print_boards([evaluate_on_board(source, BoardCall(on=on, run=run, values=chosen))], as_json=as_json)
