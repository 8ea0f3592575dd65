"""`edgeres layers FILE.json --onnx MODEL`."""

from __future__ import annotations

from pathlib import Path

import click

from edgeres.cli.terminal import say
from edgeres.compile.apart import check_graph
from edgeres.compile.layer_report import LayerReport, layer_report
from edgeres.compile.layers import layers_from
from edgeres.core.artifacts import OnnxModel


@click.command(
    help="What TensorRT made of each residual module: its kernels, INT8 or not, and where its addition is done."
    " FILE.json is written by `edgeres compile` on the GPU, or by trtexec"
    " --profilingVerbosity=detailed --exportLayerInfo."
)
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE.json")
@click.option("--onnx", "model", type=click.Path(path_type=Path), required=True, help="The graph it was built from.")
@click.option("--json", "as_json", is_flag=True, help="The report as JSON on stdout.")
def layers(file: Path, model: Path, as_json: bool) -> None:
    """See the help text."""
    graph = OnnxModel(model)
    described = layers_from(file)
    check_graph(file, graph)
    report = layer_report(described, graph.proto)
    if as_json:
        click.echo(report.model_dump_json())
    else:
        _print(report)


def _print(report: LayerReport) -> None:
    width = max((len(module.module) for module in report.modules), default=0)
    for module in report.modules:
        precisions = ", ".join(kernel.precision for kernel in module.kernels) or "none"
        copies = f", {module.reformats} reformats" if module.reformats else ""
        reason = f": {module.reason}" if module.reason else ""
        say(f"{module.module:{width}}  kernels {precisions}{copies}; add {module.place}{reason}")
    kernels = ", ".join(f"{count} {precision}" for precision, count in report.kernels.items())
    say(f"kernels: {kernels}; {report.reformats} reformats, {report.quantizers} standalone Q or DQ")
    say(report.headline)
