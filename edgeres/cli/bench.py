"""`edgeres bench [MODEL ...]`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeres.bench.stage import BenchConfig
from edgeres.cli.options import given, options_of
from edgeres.cli.output import print_result
from edgeres.pipeline.calls import bench_call


@click.command(help="Latency of models, interleaved in one session so that they compare; default: all of the run.")
@click.argument("models", nargs=-1, type=click.Path(path_type=Path), metavar="[MODEL ...]")
@options_of(BenchConfig)
@click.option("--run", "--in-run", "run", help="Run (name or folder) to take the models from.  [default: runs/latest]")
@click.option("--json", "as_json", is_flag=True, help="The report as JSON on stdout.")
def bench(models: tuple[Path, ...], run: str | None, as_json: bool, **values: Any) -> None:
    """See the help text."""
    print_result(bench_call(models, run, given(values)), as_json=as_json)
