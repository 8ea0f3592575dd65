"""`edgeres bench [MODEL ...]` and `edgeres bench --per-module [CHECKPOINT]`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeres.bench.stage import BenchConfig
from edgeres.cli.options import given, options_of
from edgeres.cli.output import print_result
from edgeres.core.errors import InputError
from edgeres.pipeline.calls import Call, bench_call, call
from edgeres.prune.latency_table import LatencyConfig

_OF_MODELS = BenchConfig.model_fields.keys() - LatencyConfig.model_fields.keys()
_OF_MODULES = LatencyConfig.model_fields.keys() - BenchConfig.model_fields.keys()


@click.command(help="Latency of models, interleaved in one session so that they compare; default: all of the run.")
@click.argument("models", nargs=-1, type=click.Path(path_type=Path), metavar="[MODEL ...]")
@click.option("--per-module", is_flag=True, help="What each module of one checkpoint costs: a table for edgeres prune.")
@options_of(BenchConfig)
@options_of(LatencyConfig, skip=BenchConfig.model_fields)
@click.option("-o", "--out", type=click.Path(path_type=Path), help="With --per-module: write the table here.")
@click.option("--run", "--in-run", "run", help="Run (name or folder) to take the models from.  [default: runs/latest]")
@click.option("--json", "as_json", is_flag=True, help="The report as JSON on stdout.")
def bench(models: tuple[Path, ...], run: str | None, as_json: bool, per_module: bool, **values: Any) -> None:
    """See the help text."""
    chosen = given(values)
    if not per_module:
        _refuse(chosen, {*_OF_MODULES, "out"}, "is for --per-module")
        print_result(bench_call(models, run, chosen), as_json=as_json)
        return
    _refuse(chosen, _OF_MODELS, "does not go with --per-module")
    if len(models) > 1:
        raise InputError(f"--per-module takes one checkpoint, got {len(models)}: {', '.join(map(str, models))}")
    out, source = chosen.pop("out", None), models[0] if models else None
    result = call(Call(stage="latency", source=source, run=run, out=out, values=chosen))
    print_result(result.report, as_json=as_json)


def _refuse(chosen: dict[str, Any], names: set[str], why: str) -> None:
    for name in sorted(names & chosen.keys()):
        raise InputError(f"--{name.replace('_', '-')} {why}")
