"""`edgeres agree A [B]`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeres.cli.options import given, options_of
from edgeres.cli.terminal import say
from edgeres.core.artifacts import model_from
from edgeres.core.config import config_from
from edgeres.core.errors import StageError
from edgeres.core.files import write_text
from edgeres.core.runs import run_holding
from edgeres.evaluate.agreement import Agreement, Likeness
from edgeres.evaluate.agreement_run import AgreeConfig, agree, broken_rules
from edgeres.report.networks import AGREE_NAME


@click.command(
    help="How well B (an ONNX file or a checkpoint) agrees with A, and the first module that drifts. One file alone:"
    " fake quantization on torch against ONNX Runtime. Exit code: 1 if a rule set by --min-... is broken."
)
@click.argument("a", type=click.Path(path_type=Path), metavar="A")
@click.argument("b", required=False, type=click.Path(path_type=Path), metavar="[B]")
@options_of(AgreeConfig)
@click.option("--json", "as_json", is_flag=True, help="The result as JSON on stdout.")
def agree_command(a: Path, b: Path | None, as_json: bool, **values: Any) -> None:
    """See the help text."""
    config = config_from(AgreeConfig, given(values), "agree", as_options=True)
    result = agree(model_from(a), model_from(b or a), config)
    if run_holding(b or a) is not None:  # the run's page shows it, module by module
        write_text((b or a).parent / AGREE_NAME, result.model_dump_json(indent=1) + "\n")
    if as_json:
        click.echo(result.model_dump_json())
    else:
        _print(result)
    if broken := broken_rules(result, config):
        for line in broken[:-1]:
            say(f"edgeres: agree: {line}", err=True)
        raise StageError(f"agree: {broken[-1]}")


def _print(result: Agreement) -> None:
    for letter, side in (("A", result.a), ("B", result.b)):
        top1 = 100 * side.correct_top1 / result.n
        say(f"{letter}: {side.path} ({side.precision}, {side.runtime}): top-1 {top1:.2f} %")
    same, (change, half) = result.pair.agreement, result.pair.difference
    say(
        f"same top-1 on {result.same_top1} of {result.n} images of {result.dataset} {result.split}:"
        f" {same.value:.2%} ({same.times(100).bounds('.2f')})"
    )
    say(
        f"accuracy of B minus A: {100 * change:+.2f} +- {100 * half:.2f} points (only A right {result.only_a},"
        f" only B {result.only_b}, McNemar p = {result.pair.p_value:.2g})"
    )
    say(f"logits: SQNR {_db(result.logits)}, cosine {result.logits.cosine:.6f}, KL {result.kl:.2g} nats")
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
