"""The sweep of a run, as its sweep.json has it."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from edgeres.core.config import record_from_json
from edgeres.core.errors import InputError
from edgeres.core.records.sweep import SWEEP_NAME, Sweep, SweepFigure, figure_of
from edgeres.report.folder import FinishedStage, RunFolder, is_possible


def sweep_in(folder: RunFolder) -> tuple[SweepFigure | None, tuple[str, ...]]:
    """The last sweep of the run, and what could not be read."""
    stage = folder.newest("sweep")
    if stage is None:
        return None, ()
    try:
        sweep = _sweep_of(stage)
        if sweep.rows and all(is_possible(one.accuracy) for row in sweep.rows for one in (row.bare, row.final)):
            return figure_of(sweep, stage.name), ()
    except ValidationError:
        pass
    return None, (f"{stage.name}: its {SWEEP_NAME} cannot be read; make it again: edgeres prune --sweep 1..6",)


def _sweep_of(stage: FinishedStage) -> Sweep:
    """sweep.json, or what the report repeats of it: runtime and machine stand in the file alone."""
    try:
        return record_from_json(Sweep, stage.path / SWEEP_NAME)
    except InputError:
        unknown: dict[str, Any] = {"runtime": "runtime unknown", "machine": "machine unknown", "batch": 1, "threads": 0}
        rows = stage.report.results.get("rows")
        return Sweep.model_validate({"model_sha256": "", "recover": (), **unknown, "rows": rows})
