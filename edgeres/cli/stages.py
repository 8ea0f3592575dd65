"""Every stage as a command, generated from its row in STAGES: the source, its options, where the result goes.

Those that measure have their own: `edgeres eval [MODEL]`, `edgeres bench [MODEL ...]` and `bench --per-module
[CHECKPOINT]`, here or `--on BOARD`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeres.bench.config import BenchConfig, BoardConfig
from edgeres.cli.options import given, options_of, refuse_timeout, timeout_on_a_board
from edgeres.cli.output import print_boards, print_result
from edgeres.core.config import refuse
from edgeres.core.errors import InputError
from edgeres.core.progress import budget_runs_from
from edgeres.core.records.latency import LatencyConfig
from edgeres.core.stage import StageReport
from edgeres.evaluate.stage import EvalConfig
from edgeres.pipeline.calls import Call, call, new_run_of
from edgeres.pipeline.eval_bench import bench_call, evaluate_call
from edgeres.pipeline.stages import STAGES
from edgeres.prune.config import GOALS

_OF_MODELS, _OF_MODULES, _OF_BOARDS = (
    frozenset(kind.model_fields) for kind in (BenchConfig, LatencyConfig, BoardConfig)
)


def stage_command(name: str, text: str) -> click.Command:
    """The click command for the stage `name`."""
    row = STAGES[name]

    def command(
        source: Path | None = None,
        run: str | None = None,
        out: Path | None = None,
        as_json: bool = False,
        on: str | None = None,
        **values: Any,
    ) -> None:
        stage, chosen = _redirected(name, given(values))
        if on is None:
            refuse_timeout(chosen)
        with budget_runs_from(click.get_current_context().obj):
            result = call(Call(stage, source, run, out, chosen, on or ""))
        print_result(result.report, as_json=as_json)

    command = click.option("--json", "as_json", is_flag=True, help="The report as JSON on stdout.")(command)
    begins = f"Add to this run (name or folder), or begin it.  [default: {new_run_of(name)}]"
    run_help = begins if row.source is None else "Run (name or folder) to work in.  [default: runs/latest]"
    command = click.option("--run", "--in-run", "run", help=run_help)(command)
    command = click.option(
        "-o", "--out", type=click.Path(path_type=Path), help="Write the result here instead of into a run."
    )(command)
    if name == "prune":
        help_text = "Every number of modules in a range: accuracy and latency of each, as a table and a picture."
        command = click.option("--sweep", metavar="1..12", default=None, help=help_text)(command)
    if row.on_board:
        command = timeout_on_a_board(command)
        command = click.option("--on", metavar="NAME", help="Build on this board instead (edgeres board add).")(command)
    command = options_of(row.config_class(), skip=_positional(name))(command)
    if row.source is not None:
        metavar = f"[{row.source.suffix or 'MODEL'}]"
        argument = click.argument("source", required=False, type=click.Path(path_type=Path), metavar=metavar)
        command = argument(command)
    for field in _positional(name):
        kind = click.Path(path_type=Path) if field == "file" else str
        required = row.config_class().model_fields[field].is_required()
        command = click.argument(field, type=kind, required=required)(command)
    return click.command(name, help=text)(command)


def _redirected(name: str, values: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """`prune --sweep` is a stage of its own, which takes no other goal."""
    if "sweep" not in values:
        return name, values
    if goals := [goal for goal in GOALS if goal in values]:
        raise InputError(f"--sweep is a goal of its own; leave out --{goals[0].replace('_', '-')}")
    return "sweep", values


def _positional(name: str) -> tuple[str, ...]:
    """Config fields that are arguments, not options."""
    return {"train": ("arch",), "import": ("file",)}.get(name, ())


@click.command(help="Accuracy of a model on the val split: a .safetensors or .onnx file, or the newest of the run.")
@click.argument("source", required=False, type=click.Path(path_type=Path), metavar="[MODEL]")
@options_of(EvalConfig)
@click.option("--replace", is_flag=True, help="Keep it in the run although that was judged on another data set.")
@click.option("--on", metavar="NAME", help="Build and run it on this board instead (edgeres board add).")
@timeout_on_a_board
@click.option("--run", "--in-run", "run", help="Run (name or folder) to take the model from.  [default: runs/latest]")
@click.option("--json", "as_json", is_flag=True, help="The report as JSON on stdout.")
def evaluate(source: Path | None, run: str | None, on: str | None, as_json: bool, replace: bool, **values: Any) -> None:
    chosen = given(values)
    if on is None:
        refuse_timeout(chosen)
        print_result(evaluate_call(source, run, chosen, replace=replace), as_json=as_json)
        return
    from edgeres.pipeline.board_calls import evaluate_on_board

    refuse(chosen.keys() - BoardConfig.model_fields | ({"replace"} if replace else set()), "does not go with --on")
    print_boards([evaluate_on_board(Call("eval", source, run, values=chosen, on=on))], as_json=as_json)


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
    chosen = given(values)
    if per_module:
        if on is None:
            refuse(chosen.keys() & _OF_BOARDS - _OF_MODELS, "is for --on BOARD")
            refuse(chosen.keys() & _OF_MODELS - _OF_MODULES, "does not go with --per-module")
        if len(models) > 1:
            raise InputError(f"--per-module takes one checkpoint, got {len(models)}: {', '.join(map(str, models))}")
        request = Call("latency", next(iter(models), None), run, chosen.pop("out", None), chosen, on or "")
        print_result(call(request).report, as_json=as_json)
        return
    if on is None:
        refuse(chosen.keys() & _OF_BOARDS - _OF_MODELS, "is for --on BOARD")
        refuse(chosen.keys() & {*_OF_MODULES - _OF_MODELS, "out"}, "is for --per-module")
        print_result(bench_call(models, run, chosen), as_json=as_json)
        return
    from edgeres.pipeline.board_calls import bench_on_board

    refuse(chosen.keys() & {"out"}, "is for --per-module")
    refuse(chosen.keys() & (_OF_MODELS | _OF_MODULES) - _OF_BOARDS, "does not go with --on")
    reports: list[StageReport] = []
    try:
        reports.extend(bench_on_board(models, Call("bench", run=run, values=chosen, on=on)))
    finally:  # what was measured before a later model failed counts
        if reports:
            print_boards(reports, as_json=as_json)
