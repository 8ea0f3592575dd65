"""`edgeres bench [MODEL ...]`, `edgeres bench --per-module [CHECKPOINT]`, and both `--on BOARD`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeres.bench.config import BenchConfig, BoardConfig
from edgeres.cli.options import given, options_of
from edgeres.cli.output import print_boards, print_result
from edgeres.core.errors import InputError
from edgeres.core.records.latency import LatencyConfig
from edgeres.core.stage import StageReport
from edgeres.pipeline.calls import Call, call
from edgeres.pipeline.measures import bench_call

_OF_MODELS, _OF_MODULES, _OF_BOARDS = (
    frozenset(kind.model_fields) for kind in (BenchConfig, LatencyConfig, BoardConfig)
)


@click.command(help="Latency of models, interleaved in one session so that they compare; default: all of the run.")
@click.argument("models", nargs=-1, type=click.Path(path_type=Path), metavar="[MODEL ...]")
@click.option("--per-module", is_flag=True, help="What each module of one checkpoint costs: a table for edgeres prune.")
@options_of(BenchConfig)
@options_of(LatencyConfig, skip=BenchConfig.model_fields)
@click.option("--on", metavar="NAME", help="Build and measure on this board instead (edgeres board add).")
@options_of(BoardConfig, skip=BenchConfig.model_fields)
@click.option("-o", "--out", type=click.Path(path_type=Path), help="With --per-module: write the table here.")
@click.option(
    "--run", "--in-run", "run", help="Run (name or folder) to time and to keep it in.  [default: runs/latest]"
)
@click.option("--json", "as_json", is_flag=True, help="The report as JSON on stdout.")
def bench(  # one parameter per option
    models: tuple[Path, ...], run: str | None, on: str | None, as_json: bool, per_module: bool, **values: Any
) -> None:
    """See the help text."""
    chosen = given(values)
    if on is not None:
        _on_board(models, run, on, chosen, per_module=per_module, as_json=as_json)
        return
    _refuse(chosen, _OF_BOARDS - _OF_MODELS, "is for --on BOARD")
    if not per_module:
        _refuse(chosen, {*_OF_MODULES - _OF_MODELS, "out"}, "is for --per-module")
        print_result(bench_call(models, run, chosen), as_json=as_json)
        return
    _refuse(chosen, _OF_MODELS - _OF_MODULES, "does not go with --per-module")
    if len(models) > 1:
        raise InputError(f"--per-module takes one checkpoint, got {len(models)}: {', '.join(map(str, models))}")
    out, source = chosen.pop("out", None), models[0] if models else None
    result = call(Call(stage="latency", source=source, run=run, out=out, values=chosen))
    print_result(result.report, as_json=as_json)


def _on_board(  # what the user typed
    models: tuple[Path, ...], run: str | None, on: str, chosen: dict[str, Any], *, per_module: bool, as_json: bool
) -> None:
    from edgeres.pipeline.board_modules import module_costs_on_board
    from edgeres.pipeline.on_board import BoardCall, bench_on_board

    out = chosen.pop("out", None)
    request = BoardCall(on=on, run=run, values=chosen, out=out)
    if per_module:
        if len(models) != 1:
            raise InputError("--per-module --on takes one ONNX file or one checkpoint; name it")
        print_result(module_costs_on_board(models[0], request), as_json=as_json)
        return
    if out is not None:
        raise InputError("--out is for --per-module")
    _refuse(chosen, (_OF_MODELS | _OF_MODULES) - _OF_BOARDS, "does not go with --on")
    reports: list[StageReport] = []
    try:
        reports.extend(bench_on_board(models, request))
    finally:  # what was measured before a later model failed counts
        if reports:
            print_boards(reports, as_json=as_json)


def _refuse(chosen: dict[str, Any], names: set[str] | frozenset[str], why: str) -> None:
    for name in sorted(names & chosen.keys()):
        raise InputError(f"--{name.replace('_', '-')} {why}")
