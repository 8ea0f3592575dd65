"""`edgeres layers FILE.json`, with the graph it was built from or without."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click

from edgeres.cli.terminal import say
from edgeres.compile.isolated import check_graph
from edgeres.compile.layer_report import LayerReport, ModuleLayers, ProfileSums, layer_report
from edgeres.compile.layers import layers_from, plan_of, times_beside
from edgeres.core.artifacts import OnnxModel
from edgeres.core.lineage import source_of

_TITLES = ("module", "kernels", "in", "out", "copies", "time", "share", "addition")
_UNTOLD = "no residual adds can be told from this file alone; add --onnx FILE"  # where TensorRT keeps a region closed


@click.command(
    help="What TensorRT made of each residual module: its kernels, INT8 or not, and where its addition is done."
    " FILE.json is written by `edgeres compile`, on the GPU or --on a board, or by trtexec"
    " --profilingVerbosity=detailed --exportLayerInfo. NAME.profile.json beside NAME.layers.json or NAME.graph.json"
    " tells the time as well."
)
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE.json")
@click.option(
    "--onnx",
    "model",
    type=click.Path(path_type=Path),
    help="The graph it was built from: tells why an addition is not INT8.  [default: that of the run, or none]",
)
@click.option("--json", "as_json", is_flag=True, help="The report as JSON on stdout.")
def layers(file: Path, model: Path | None, as_json: bool) -> None:
    described = layers_from(file)
    if model is None and (model := source_of(plan_of(file))):
        say(f"layers: takes {model}", err=True)
    graph = OnnxModel(model) if model is not None else None
    if graph is not None:
        check_graph(file, graph)
    report = layer_report(described, graph.proto if graph else None, times_beside(file))
    if as_json:
        click.echo(report.model_dump_json())
    else:
        _print(report, report.headline if report.modules or graph else _UNTOLD)


def _print(report: LayerReport, headline: str) -> None:
    rows = [_TITLES, *map(_cells, report.modules)] if report.modules else []
    if report.profile and rows:
        rows.append(("outside", "", "", "", "", *_time(report.profile.outside_ms, report.profile), ""))
    shown = [at for at in range(len(_TITLES)) if any(row[at] for row in rows[1:])]
    widths = {at: max(len(row[at]) for row in rows) for at in shown}
    for row in rows:
        say("  ".join(row[at].ljust(widths[at]) for at in shown).rstrip())
    for module in report.modules:
        if module.reason:
            say(f"{module.module}: {module.reason}")
    for line in (*_below(report), headline):
        say(line)


def _cells(module: ModuleLayers) -> tuple[str, ...]:
    kernels = Counter(kernel.precision for kernel in module.kernels)
    text = ", ".join(f"{count} {precision}" for precision, count in kernels.items()) or "none"
    copies = str(module.reformats or "")
    time = ("", "") if module.time_ms is None else (f"{module.time_ms:.3g} ms", f"{module.share or 0:.1%}")
    return module.module, text, module.reads or "", module.writes or "", copies, *time, module.place


def _time(time_ms: float, profile: ProfileSums) -> tuple[str, str]:
    return f"{time_ms:.3g} ms", f"{time_ms / profile.sum_ms if profile.sum_ms else 0:.1%}"


def _below(report: LayerReport) -> Iterator[str]:
    """Strays one by one, the sums, and what the times are."""
    profile = report.profile
    for stray in report.strays:
        cost = "" if stray.time_ms is None or profile is None else ", " + ", ".join(_time(stray.time_ms, profile))
        yield f"stray {stray.name}: {stray.reads} to {stray.writes}, {stray.place}{cost}"
    kernels = ", ".join(f"{count} {precision}" for precision, count in report.kernels.items())
    cost = ""
    if profile is not None and report.strays:
        cost = " ({}, {})".format(*_time(sum(stray.time_ms or 0 for stray in report.strays), profile))
    yield f"kernels: {kernels}; {report.reformats} reformats, {report.quantizers} stray Q/DQ{cost}"
    if profile is not None:
        against = ""
        if profile.engine_ms:
            factor, where = profile.sum_ms / profile.engine_ms, f" on {profile.device}" if profile.device else ""
            against = f", {factor:.2f} times the {profile.engine_ms:.3g} ms of the engine in one piece{where}"
        yield f"times: each layer profiled by itself, {profile.sum_ms:.3g} ms in all{against}; their sum is no latency"
