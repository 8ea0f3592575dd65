"""`edgeres eval [MODEL]`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeres.cli.options import given, options_of
from edgeres.cli.output import print_result
from edgeres.evaluate.stage import EvalConfig
from edgeres.pipeline.calls import evaluate_call


@click.command(help="Accuracy of a model on the val split: a .safetensors or .onnx file, or the newest of the run.")
@click.argument("source", required=False, type=click.Path(path_type=Path), metavar="[MODEL]")
@options_of(EvalConfig)
@click.option("--run", "--in-run", "run", help="Run (name or folder) to take the model from.  [default: runs/latest]")
@click.option("--json", "as_json", is_flag=True, help="The report as JSON on stdout.")
def evaluate(source: Path | None, run: str | None, as_json: bool, **values: Any) -> None:
    """See the help text."""
    print_result(evaluate_call(source, run, given(values)), as_json=as_json)
