"""`edgeres lint FILE.onnx`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from edgeres.cli.options import given, options_of
from edgeres.cli.terminal import say
from edgeres.compile.isolated import tried
from edgeres.core.config import config_from
from edgeres.core.errors import StageError
from edgeres.quantize.lint.call import LintConfig, LintReport, Verdict, lint_call
from edgeres.quantize.lint.pairs import Finding

_WORDS = {"error": "error", "speed": "slow node", "note": "note"}


@click.command(
    help="What keeps a Q/DQ file, whoever wrote it, from TensorRT's INT8 kernels; --fix writes a repaired one."
    " Exit code: 0 clean, 1 findings other than notes, 2 bad input, a float file among it."
)
@click.argument("source", type=click.Path(path_type=Path), metavar="FILE.onnx")
@options_of(LintConfig, skip=("out",))
@click.option("-o", "--out", type=click.Path(path_type=Path), help="The repaired file.  [default: NAME.fixed.onnx]")
@click.option("--json", "as_json", is_flag=True, help="The report as JSON on stdout.")
def lint(source: Path, as_json: bool, **values: Any) -> None:
    config = config_from(LintConfig, given(values), "lint", as_options=True)
    report = lint_call(source, config, tried)
    if as_json:
        click.echo(report.model_dump_json())
    else:
        _print(report, config)
    if not report.is_clean:
        verdict = report.repaired or report.source
        raise StageError(f"lint: {verdict.path} is not fit for TensorRT: {_count(verdict)}")


def _print(report: LintReport, config: LintConfig) -> None:
    if not report.quantized:
        say(f"{report.source.path} has no Q/DQ pairs, it is a float file: only its opset was checked")
    _print_verdict(report.source, config, findings=report.repaired is None)
    if report.repaired is not None:
        for note in report.notes:
            say(f"not repaired: {note}")
        top1 = "" if report.top1_agreement is None else f", top-1 agrees on {report.top1_agreement:.1%}"
        is_noisy = math.isfinite(report.sqnr_db or 0)
        near = f"{report.sqnr_db:.1f} dB, at least {report.needed_db:g} needed" if is_noisy else "the same numbers"
        say(f"repaired against original: {near}{top1}; {report.images}, ONNX Runtime literal Q/DQ")
        say(_rounding(report))
        _print_verdict(report.repaired, config, findings=True)
    elif config.fix:
        say("nothing that can be repaired, no file written")


def _rounding(report: LintReport) -> str:
    worst = "" if report.coarser_db is None else f": {report.coarser_db + 0.0:+.2f} dB of noise at worst, +1 is refused"
    unknown = f"; the original has no range for {', '.join(report.unknown_inputs)}" if report.unknown_inputs else ""
    return f"{report.inputs} inputs of layers and additions, against what the original's ranges ask for{worst}{unknown}"


def _print_verdict(verdict: Verdict, config: LintConfig, *, findings: bool) -> None:
    for line in _lines(verdict.findings) if findings else ():
        say(line)
    say(f"{verdict.path}: {_count(verdict)}; {_build_text(verdict, config)}")


def _lines(findings: Sequence[Finding]) -> Iterator[str]:
    """One line a finding; those alike share one, and the names of their nodes stand below it."""
    alike: dict[tuple[str, ...], list[Finding]] = {}
    for one in findings:
        alike.setdefault((one.severity, one.rule, one.reason, one.remedy), []).append(one)
    for (severity, rule, reason, remedy), group in alike.items():
        if len(group) == 1:
            yield str(group[0])
        else:
            yield f"{severity}: {rule}: {len(group)} nodes: {reason}; {remedy}"
            yield f"  {', '.join(one.node for one in group)}"


def _count(verdict: Verdict) -> str:
    count = Counter[str](finding.severity for finding in verdict.findings)
    parts = [f"{count[kind]} {word}{'s' * (count[kind] > 1)}" for kind, word in _WORDS.items() if count[kind]]
    return ", ".join(parts) or ("clean" if verdict.build_error is None else "it does not build")


def _build_text(verdict: Verdict, config: LintConfig) -> str:
    if verdict.build_error is not None:
        return f"{verdict.built_by} does not build it: {verdict.build_error}"
    if verdict.built_by is not None:
        return f"built by {verdict.built_by}"
    return "not parsed by TensorRT" + (": tensorrt_rtx is not installed" if config.build else "")
