"""Measuring the models of a run: accuracy beside each model, latency of all of them in one interleaved session."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, cast

from edgeres.core.artifacts import Engine, Model
from edgeres.core.config import Config, record_from_json
from edgeres.core.errors import EdgeresError
from edgeres.core.names import canonical_data_name
from edgeres.core.runs import EVAL_NAME, PREDICTIONS_NAME, Run, StageFolder
from edgeres.core.stage import REPORT_NAME, StageReport, write_report
from edgeres.pipeline.stages import stage_key

if TYPE_CHECKING:
    from edgeres.bench.stage import BenchConfig
    from edgeres.evaluate.stage import EvalConfig
    from edgeres.report.stage import ReportConfig
    from edgeres.report.summary import RunSummary

log = logging.getLogger(__name__)
Measured = tuple[tuple[StageReport, ...], bool]


def evaluate_models(models: Sequence[tuple[StageFolder, Model]], config: Config, *, fresh: bool = False) -> Measured:
    """The accuracy of every model that runs here, each written beside it; whether all of them were there already."""
    reports, reused = [], True
    for folder, model in models:
        if isinstance(model, Engine):
            log.info("%s: not evaluated, an engine runs on its own GPU only", model.path)
            continue
        report, was_there = evaluate_in_place(folder.path, model, config, fresh=fresh)
        reports.append(report)
        reused &= was_there
    return tuple(reports), reused


def evaluate_in_place(folder: Path, model: Model, config: Config, *, fresh: bool = False) -> tuple[StageReport, bool]:
    """The evaluation of `model` in `folder`/eval.json, made now unless one with the same key is there."""
    from edgeres.evaluate.stage import evaluate

    key = stage_key("eval", model, config)
    known = None if fresh else report_with(folder / EVAL_NAME, key)
    if known is not None and (folder / PREDICTIONS_NAME).is_file():
        return known, True
    log.info("eval %s", model.path)
    report = evaluate(model, cast("EvalConfig", config), folder / PREDICTIONS_NAME)
    report = report.model_copy(update={"key": key})
    write_report(report, folder / EVAL_NAME)
    return report, False


def judged_on(run: Run) -> set[str]:
    """Names of the data sets that networks of the run were judged on."""
    found: set[str] = set()
    for folder in run.finished():
        with suppress(EdgeresError):
            report = record_from_json(StageReport, folder.path / EVAL_NAME)
            found |= {one.dataset for one in report.accuracy} | {canonical_data_name(str(report.config.get("data")))}
    return found - {str(None)}


def bench_models(
    models: Sequence[tuple[StageFolder, Model]], config: Config, folder: StageFolder, *, fresh: bool = False
) -> Measured:
    """The latency of every model that runs here, interleaved; written into `folder`."""
    from edgeres.bench.stage import bench_report

    hashes = json.dumps([model.sha256 for _, model in models])
    key = hashlib.sha256((hashes + stage_key("bench", None, config)).encode()).hexdigest()
    known = None if fresh else report_with(folder.path / REPORT_NAME, key)
    if known is not None:
        return (known,), True
    log.info("bench: %d model%s", len(models), "s, interleaved" if len(models) > 1 else "")
    report = bench_report([model for _, model in models], cast("BenchConfig", config))
    report = report.model_copy(update={"key": key})
    write_report(report, folder.path / REPORT_NAME)
    return (report,), False


def write_run_report(run: Run, config: Config) -> RunSummary:
    """Writes report.html, .md, .json and .csv into the run's folder and returns what is in them."""
    from edgeres.report.stage import report

    return report(run.path, cast("ReportConfig", config))


def report_with(path: Path, key: str) -> StageReport | None:
    """The report of the very same call, if it is there."""
    with suppress(EdgeresError):
        report = record_from_json(StageReport, path)
        return report if report.key == key else None
    return None
