"""The layer report of a plan that was just built, kept beside it as NAME.plan.layers.json."""

from __future__ import annotations

from pathlib import Path

from edgeres.compile.layer_report import LayerReport, layer_report
from edgeres.compile.layers import layers_from
from edgeres.compile.process import inspect_apart
from edgeres.core.artifacts import Engine, OnnxModel
from edgeres.core.errors import InputError
from edgeres.runtime.manifest import LayerCounts, manifest_of


def layers_of_plan(module: str, plan: Path, source: OnnxModel) -> tuple[LayerCounts | None, str | None]:
    """(the figures, why there are none); the inspector's JSON is written beside the plan."""
    path = layers_path(plan)
    problem = inspect_apart(module, plan.resolve(), path.resolve())
    if problem is not None:
        return None, problem
    try:
        return counts_of(layer_report(layers_from(path), source.proto)), None
    except InputError as err:
        return None, str(err)


def layers_path(plan: Path) -> Path:
    """Where the inspector's JSON about `plan` lies."""
    return plan.with_name(f"{plan.name}.layers.json")


def check_graph(described: Path, model: OnnxModel) -> None:
    """Of a plan, or what lies beside one as NAME.plan.layers.json: raises InputError if it came from another graph."""
    engine = Engine(described.with_name(described.name.removesuffix(".layers.json")))
    if engine.path.suffix != ".plan" or not engine.manifest_path.is_file():
        return
    built_from = manifest_of(engine).onnx_sha256
    if built_from != model.sha256:
        raise InputError(
            f"{engine.path} was built from another graph (sha256 {built_from[:12]}) than {model.path}"
            f" ({model.sha256[:12]}); give --onnx the one it came from"
        )


def counts_of(report: LayerReport) -> LayerCounts:
    """The report in the few figures that a manifest keeps."""
    return LayerCounts(kernels=report.kernels, reformats=report.reformats, headline=report.headline)
