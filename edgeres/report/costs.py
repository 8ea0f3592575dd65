"""What each module costs by the clock, as the run's latency table has it."""

from __future__ import annotations

from edgeres.core.config import record_from_json
from edgeres.core.errors import InputError
from edgeres.core.records.latency import LATENCY_NAME, LatencyTable, ModuleCost
from edgeres.core.statistics import Interval
from edgeres.report.folder import Figure, FinishedStage, RunFolder, figure_from


class CostFigure(Figure):
    """All modules, in order of execution. `fit_error`: what networks differ from the sum of their modules, relative."""

    stage: str
    whole_ms: Interval
    rest_ms: float
    fit_error: float
    networks: int
    conditions: str
    machine: str
    rows: tuple[ModuleCost, ...]


def costs_in(folder: RunFolder) -> tuple[CostFigure | None, tuple[str, ...]]:
    """The last latency table of the run, and what could not be read."""
    stage = folder.newest("latency")
    if stage is None:
        return None, ()
    found = figure_from(CostFigure, {"stage": stage.name, **_values(stage)})
    if found is None or not found.rows:
        return None, (f"{stage.name}: its latency table cannot be read; measure again: edgeres bench --per-module",)
    return found, ()


def _values(stage: FinishedStage) -> dict[str, object]:
    """Of latency.json, or what the report repeats of it: runtime and machine stand in the file alone."""
    try:
        table = record_from_json(LatencyTable, stage.path / LATENCY_NAME)
    except InputError:
        results = stage.report.results
        unknown = {"conditions": "runtime unknown", "machine": "machine unknown"}
        return {**results, **unknown, "rows": results.get("modules")}
    shared = table.model_dump(include={"whole_ms", "rest_ms", "fit_error", "machine"})
    return {**shared, "networks": len(table.timed), "conditions": _conditions(table), "rows": table.table}


def _conditions(table: LatencyTable) -> str:
    threads = "" if table.is_of_board else f", threads {table.conditions.threads}"
    return f"{table.runtime}, {table.precision.lower()}, batch {table.conditions.batch}{threads}"
