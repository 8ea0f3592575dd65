"""`edgeres compare RUN RUN`, `edgeres compare MODEL MODEL ...`, and `edgeres agree A [B]`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from edgeres.bench.versus import Versus, VersusConfig, versus
from edgeres.cli.options import given, options_of
from edgeres.cli.terminal import say
from edgeres.core.amounts import counted
from edgeres.core.artifacts import MODEL_KINDS, model_from
from edgeres.core.config import config_from, refuse
from edgeres.core.errors import InputError, StageError
from edgeres.core.metrics import threads_text
from edgeres.core.runs import run_named
from edgeres.evaluate.agreement import Agreement, Likeness
from edgeres.evaluate.agreement_run import AgreeConfig, broken_rules
from edgeres.pipeline.eval_bench import agree_call
from edgeres.report.changes import OptionDifference, RunChanges, changes_between
from edgeres.report.folder import taken
from edgeres.report.wording import closeness_text

_SUFFIXES = {kind.suffix for kind in MODEL_KINDS}


@click.command(
    help="Two runs (name or folder): what changed, options, machine, results. Model files: which is faster, timed"
    " against the first in interleaved sessions, with a verdict in words."
)
@click.argument("names", nargs=-1, required=True, metavar="A B [C ...]")
@options_of(VersusConfig)
@click.option("--across", is_flag=True, help="Runs: compare latencies of different machines or modes too.")
@click.option("--json", "as_json", is_flag=True, help="The result as JSON on stdout.")
def compare(names: tuple[str, ...], across: bool, as_json: bool, **values: Any) -> None:
    files = [_is_model(name) for name in names]
    if any(files) and not all(files):
        for name in names:
            _refuse_unknown(name)
        raise InputError(f"compare runs or model files, not both: {', '.join(names)}")
    if all(files):
        if across:
            raise InputError("--across is for runs: models are always timed here and now")
        config = config_from(VersusConfig, given(values), "compare", as_options=True)
        found = versus([taken(model_from(Path(name)), "compare") for name in names], config)
        _print_versus(found, as_json=as_json)
        return
    if len(names) != 2:
        raise InputError(f"name two runs, got {len(names)}: {', '.join(names)} (see: edgeres ls runs)")
    refuse(given(values), "is for model files")
    a, b = (run_named(name).path for name in names)
    _print_changes(changes_between(a, b, across=across), as_json=as_json)


def _is_model(name: str) -> bool:
    return Path(name).suffix in _SUFFIXES and not Path(name).is_dir()


def _refuse_unknown(name: str) -> None:
    """Raises InputError for what is neither a model file nor a run."""
    if Path(name).is_file() or _is_model(name):
        model_from(Path(name))
        return
    try:
        run_named(name)
    except InputError as err:
        raise InputError(f"{name} does not exist: it is no model file, and {err}") from err


def _print_versus(found: Versus, *, as_json: bool) -> None:
    if as_json:
        click.echo(found.model_dump_json())
    else:
        for model in found.models:
            p50, p99 = model.p50_ms, model.p99_ms
            say(
                f"{model.path}: p50 {p50.value:.3f} ms ({p50.bounds()}), p99 {p99.value:.3f} ms,"
                f" n = {model.samples:,}, batch {model.batch}, {threads_text(model.threads)}, {model.runtime}"
            )
        say(f"{counted(found.sessions, 'session')} of {found.rounds} interleaved rounds, each in new processes")
        for verdict in found.verdicts:
            say(click.style(verdict.sentence, bold=True))
    for warning in found.warnings:
        say(f"warning: {warning}", err=True)


def _print_changes(found: RunChanges, *, as_json: bool) -> None:
    if as_json:
        click.echo(found.model_dump_json())
        return
    say(f"A: {found.a}   B: {found.b}")
    for title, lines in (
        ("options", [*_option_lines(found)]),
        ("machine and versions", [*map(str, found.environment)]),
    ):
        say(click.style(title, bold=True) + ("" if lines else ": the same"))
        for line in lines:
            say(f"  {line}")
    say(click.style("results", bold=True))
    for change in found.results:
        say(f"  {change.a}" + (f" / {change.b}" if change.a != change.b else ""))
        for line in change.lines:
            say(f"    {line}")
    for problem in found.problems:
        say(f"warning: {problem}", err=True)


def _option_lines(found: RunChanges) -> Iterator[str]:
    """An option each, then in a line the stages that one run alone has."""
    yield from (str(one) for one in found.recipe if isinstance(one, OptionDifference))
    for run, side in ((found.a, "a"), (found.b, "b")):
        own = [one.what for one in found.recipe if not isinstance(one, OptionDifference) and getattr(one, side)]
        if own:
            yield f"only in {run}: {', '.join(own)}"


@click.command(
    help="How well B (an ONNX file or a checkpoint) agrees with A, and the first module that drifts. One file alone:"
    " fake quantization on torch against ONNX Runtime; none: the run's newest INT8 file and the float one it was made"
    " from. Exit code: 1 if a rule set by --min-... is broken."
)
@click.argument("a", required=False, type=click.Path(path_type=Path), metavar="[A]")
@click.argument("b", required=False, type=click.Path(path_type=Path), metavar="[B]")
@options_of(AgreeConfig)
@click.option("--json", "as_json", is_flag=True, help="The result as JSON on stdout.")
def agree_command(a: Path | None, b: Path | None, as_json: bool, **values: Any) -> None:
    result, config = agree_call([one for one in (a, b) if one is not None], given(values))
    if as_json:
        click.echo(result.model_dump_json())
    else:
        _print_agreement(result)
    if broken := broken_rules(result, config):
        for line in broken[:-1]:
            say(f"edgeres: agree: {line}", err=True)
        raise StageError(f"agree: {broken[-1]}")


def _print_agreement(result: Agreement) -> None:
    for letter, side in (("A", result.a), ("B", result.b)):
        top1 = "" if side.correct_top1 is None else f": top-1 {100 * side.correct_top1 / result.n:.2f} %"
        say(f"{letter}: {side.path} ({side.precision}, {side.runtime}){top1}")
    same, (change, half) = result.pair.agreement, result.pair.difference
    if result.closeness is not None:
        say(f"B to A: {closeness_text(result.closeness)}")
    else:
        say(
            f"same top-1 on {result.same_top1} of {result.n} images of {result.dataset} {result.split}:"
            f" {same.value:.2%} ({same.times(100).bounds('.2f')})"
        )
    if result.is_labelled:
        say(
            f"accuracy of B minus A: {100 * change:+.2f} +- {100 * half:.2f} points (only A right {result.only_a},"
            f" only B {result.only_b})"
        )
    what, kl = ("outputs", "") if result.kl is None else ("logits", f", KL {result.kl:.2g} nats")
    say(f"{what}: SQNR {_db(result.logits)}, cosine {result.logits.cosine:.6f}{kl}")
    width = max([len(module.name) for module in result.modules], default=0)
    for module in result.modules:
        mark = "  <- drifts first" if module.name == result.drift else ""
        say(f"  {module.name:{width}}  {_db(module):>9}  cosine {module.cosine:.6f}{mark}")
    for note in result.notes:
        say(note)
    if result.modules and result.drift is None:
        say("no module drifts")


def _db(likeness: Likeness) -> str:
    return "identical" if likeness.sqnr_db is None else f"{likeness.sqnr_db:.1f} dB"
