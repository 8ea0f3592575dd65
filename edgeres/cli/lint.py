"""`edgeres lint FILE.onnx`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeres.cli.options import given, options_of
from edgeres.core.config import config_from
from edgeres.core.errors import StageError
from edgeres.pipeline.lint import LintConfig, LintReport, Verdict, lint_call


@click.command(
    help="What keeps a Q/DQ file, whoever wrote it, from TensorRT's INT8 kernels; --fix writes a repaired one."
    " Exit code: 0 clean, 1 findings other than notes, 2 bad input, a float file among it."
)
@click.argument("source", type=click.Path(path_type=Path), metavar="FILE.onnx")
@options_of(LintConfig, skip=("out",))
@click.option("-o", "--out", type=click.Path(path_type=Path), help="The repaired file.  [default: NAME.fixed.onnx]")
@click.option("--json", "as_json", is_flag=True, help="The report as JSON on stdout.")
def lint(source: Path, as_json: bool, **values: Any) -> None:
    """See the help text."""
    config = config_from(LintConfig, given(values), "lint", as_options=True)
    report = lint_call(source, config)
    if as_json:
        click.echo(report.model_dump_json())
    else:
        _print(report, config)
    if not report.is_clean:
        verdict = report.repaired or report.source
        raise StageError(f"lint: {verdict.path} is not fit for TensorRT: {_count(verdict)}")


def _print(report: LintReport, config: LintConfig) -> None:
    if not report.quantized:
        click.echo(f"{report.source.path} has no Q/DQ pairs, it is a float file: only its opset was checked")
    _print_verdict(report.source, config)
    if report.repaired is not None:
        for note in report.notes:
            click.echo(f"not repaired: {note}")
        top1 = "" if report.top1_agreement is None else f", top-1 agrees on {report.top1_agreement:.1%}"
        click.echo(
            f"repaired against original: {report.sqnr_db:.1f} dB, at least {report.needed_db:g} needed{top1};"
            f" {report.images}, ONNX Runtime literal Q/DQ"
        )
        click.echo(_rounding(report))
        _print_verdict(report.repaired, config)
    elif config.fix:
        click.echo("nothing that can be repaired, no file written")


def _rounding(report: LintReport) -> str:
    worst = "" if report.coarser_db is None else f": {report.coarser_db + 0.0:+.2f} dB of noise at worst, +1 is refused"
    unknown = f"; the original has no range for {', '.join(report.unknown_inputs)}" if report.unknown_inputs else ""
    return f"{report.inputs} inputs of layers and additions, against what the original's ranges ask for{worst}{unknown}"


def _print_verdict(verdict: Verdict, config: LintConfig) -> None:
    for finding in verdict.findings:
        click.echo(str(finding))
    click.echo(f"{verdict.path}: {_count(verdict)}; {_build_text(verdict, config)}")


def _count(verdict: Verdict) -> str:
    count = {kind: sum(f.severity == kind for f in verdict.findings) for kind in ("error", "speed", "note")}
    parts = [f"{number} {kind}" for kind, number in count.items() if number]
    return ", ".join(parts) or ("clean" if verdict.build_error is None else "it does not build")


def _build_text(verdict: Verdict, config: LintConfig) -> str:
    if verdict.build_error is not None:
        return f"{verdict.built_by} does not build it: {verdict.build_error}"
    if verdict.built_by is not None:
        return f"built by {verdict.built_by}"
    return "not parsed by TensorRT" + (": tensorrt_rtx is not installed" if config.build else "")
