"""`edgeres bench`: which models are timed, and whether the session is kept in a run."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeres.core.artifacts import Model, model_from
from edgeres.core.config import Config, config_from, refuse_needless
from edgeres.core.errors import DeviceError, InputError
from edgeres.core.runs import Run, StageFolder, run_holding, run_named, runs_root
from edgeres.core.stage import REPORT_NAME, StageReport
from edgeres.pipeline import measures

log = logging.getLogger(__name__)


def bench_call(paths: tuple[Path, ...], run_name: str | None, values: dict[str, Any]) -> StageReport:
    """One interleaved session over `paths`, or over all models of the run.

    It is kept in the run without `paths`, and with them if `run_name` is given and all of them are models of that run.
    Raises DeviceError if none of `paths` can be timed here.
    """
    from edgeres.bench.stage import BenchConfig, bench_report
    from edgeres.bench.tasks import reason_to_skip

    config = config_from(BenchConfig, values, "bench", as_options=True)
    refuse_needless(config, values, "bench")
    named = [model_from(path) for path in paths]
    run = run_named(run_name) if run_name is not None or not named else None
    own = {model.sha256 for _, model in run.models()} if run is not None and named else set()
    strange = [model for model in named if run is not None and model.sha256 not in own]
    is_timed = not named or not all(reason_to_skip(model, config) for model in named)
    if run is not None and is_timed and not strange:
        return _bench_in_run(run, named, config)
    report = bench_report(named, config)
    if not report.latency:
        raise DeviceError(f"nothing was timed: {'; '.join(report.notes)}")
    reason = _why_session_not_kept(run, strange) if run is not None else _how_to_keep(named)
    return report.model_copy(update={"notes": (*report.notes, *filter(None, (reason,)))})


def _bench_in_run(run: Run, named: Sequence[Model], config: Config) -> StageReport:
    """A session over `named`, or all models of the run, kept in a new folder of it."""
    wanted = {model.sha256 for model in named}
    models = [pair for pair in run.models() if not wanted or pair[1].sha256 in wanted]
    if not models:
        raise InputError(f"{run.path} holds no model to time")
    path = run.folder_for("bench", "")
    folder = StageFolder(path, int(path.name.partition("-")[0]), "bench")
    report = measures.bench_models(models, config, folder)[0][0]
    log.info("bench: wrote %s", folder.path / REPORT_NAME)
    return report


def _why_session_not_kept(run: Run, strange: Sequence[Model]) -> str:
    names = ", ".join(str(model.path) for model in strange)
    return f"not kept in {run.path}, which did not make {names}; without FILES bench keeps a session of all its models"


def _how_to_keep(named: Sequence[Model]) -> str:
    """A line for files that are all of one run; an empty string for others, whose figures are for reading."""
    homes = [run_holding(model.path) for model in named]
    paths = {home.path for home in homes if home is not None}
    if len(paths) != 1 or None in homes:
        return ""
    (path,) = paths
    name = path.name if path.parent == runs_root() else path
    return f"not kept in the run; --run {name} keeps it there"
