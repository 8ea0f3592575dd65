"""What each module costs by the clock, as the run's latency table has it."""

from __future__ import annotations

from edgeres.core.statistics import Interval
from edgeres.report.folder import Figure, FinishedStage, RunFolder, figure_from


class CostRow(Figure):
    """Milliseconds that dropping the module saves: the figure of all modules of its `shape`, and its own if timed."""

    module: str
    kind: str
    shape: str
    saved_ms: Interval
    alone_ms: Interval | None = None


class CostFigure(Figure):
    """All modules, in order of execution. `fit_error`: what networks differ from the sum of their modules, relative."""

    stage: str
    whole_ms: Interval
    rest_ms: float
    fit_error: float
    networks: int
    conditions: str
    machine: str
    rows: tuple[CostRow, ...]


def costs_in(folder: RunFolder) -> tuple[CostFigure | None, tuple[str, ...]]:
    """The last latency table of the run, and what could not be read."""
    stage = folder.newest("latency")
    if stage is None:
        return None, ()
    results = stage.report.results
    values = {
        **results,
        "stage": stage.name,
        "rows": results.get("modules"),
        "conditions": _conditions(stage),
        "machine": stage.report.environment.machine,
    }
    found = figure_from(CostFigure, values)
    if found is None or not found.rows:
        return None, (f"{stage.name}: its latency table cannot be read; measure again: edgeres bench --per-module",)
    return found, ()


def _conditions(stage: FinishedStage) -> str:
    config = stage.report.config
    threads = config.get("threads") or stage.report.environment.cores
    runtime = {"ort": "onnxruntime", "torch": "torch"}.get(str(config.get("runtime")), "runtime unknown")
    return f"{runtime}, {config.get('precision', 'fp32')}, batch {config.get('batch', 1)}, threads {threads}"
