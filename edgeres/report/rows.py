"""One row per model of a run: what changed, what it cost, what it gained, or why that is not known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edgeres.core.errors import InputError
from edgeres.core.metrics import Accuracy, Latency
from edgeres.core.stage import StageReport
from edgeres.core.statistics import Interval, percentile_interval, spread_ms
from edgeres.models import modules_of
from edgeres.report.claims import claims_from, headline_from
from edgeres.report.compare import Measured, latency_between, points_between, size_between
from edgeres.report.folder import FinishedStage, RunFolder, run_folder_from, spec_in
from edgeres.report.steps import step_text
from edgeres.report.summary import (
    AccuracyFigure,
    Change,
    Changes,
    LatencyFigure,
    LesionFigure,
    ModuleState,
    Row,
    RunSummary,
    StageDetail,
)

Compare = Callable[[Measured, Measured], "Change | None"]


def rows_from(run: Path) -> RunSummary:
    """The summary of the run folder; raises InputError if nothing in it is finished."""
    folder = run_folder_from(run)
    models = [stage for stage in folder.stages if stage.report.output and stage.report.cost]
    measured = [_measured_from(stage, folder) for stage in models]
    plain = [_row_from(stage, one, folder) for stage, one in zip(models, measured, strict=True)]
    rows = [_with_changes(index, plain, measured) for index in range(len(plain))]
    lesion, problems = _lesion_from(folder)
    claims = claims_from(rows)
    return RunSummary(
        run=run.resolve().name,
        headline=headline_from(claims, rows, run=run.resolve().name),
        claims=claims,
        rows=tuple(rows),
        lesion=lesion,
        modules=_modules_from(models, lesion, rows),
        stages=tuple(_detail_from(stage) for stage in folder.stages),
        recipe=folder.recipe,
        problems=(*folder.problems, *problems),
    )


def _measured_from(stage: FinishedStage, folder: RunFolder) -> Measured:
    assert stage.report.output is not None
    output = stage.report.output
    accuracy = next((one for one in stage.accuracy if one.artifact == output.sha256), None)
    latency = folder.latencies.get(output.sha256)
    return Measured(stage.name, output.size_bytes, stage.path, accuracy, latency)


def _row_from(stage: FinishedStage, measured: Measured, folder: RunFolder) -> Row:
    report, output = stage.report, stage.report.output
    assert output is not None
    assert report.cost is not None
    return Row(
        name=stage.name,
        stage=report.stage,
        what=step_text(report),
        precision=report.precision,
        path=f"{stage.name}/{Path(output.path).name}",
        sha256=output.sha256,
        parent=report.source.sha256 if report.source else None,
        params=report.cost.params,
        macs=report.cost.macs,
        size_bytes=output.size_bytes,
        dropped=report.dropped,
        accuracy=_accuracy_figure(measured.accuracy),
        accuracy_missing="" if measured.accuracy else "not evaluated",
        latency=_latency_figure(measured.latency),
        latency_missing="" if measured.latency else _why_not_timed(report, folder.skipped),
    )


def _accuracy_figure(accuracy: Accuracy | None) -> AccuracyFigure | None:
    if accuracy is None:
        return None
    low, high = accuracy.interval
    return AccuracyFigure(
        top1=Interval(value=accuracy.top1, low=low, high=high),
        top5=accuracy.top5,
        **accuracy.model_dump(include={"n", "dataset", "split", "runtime"}),
    )


def _latency_figure(latency: Latency | None) -> LatencyFigure | None:
    if latency is None:
        return None
    shared = {"batch", "threads", "runtime", "machine", "session", "note"}
    return LatencyFigure(
        p50_ms=percentile_interval(latency, 50),
        p99_ms=percentile_interval(latency, 99),
        spread_ms=spread_ms(latency),
        samples=len(latency.samples_ms),
        **latency.model_dump(include=shared),
    )


def _why_not_timed(report: StageReport, skipped: dict[str, str]) -> str:
    assert report.output is not None
    if report.stage == "compile":
        return "built, not run here"
    return skipped.get(report.output.sha256, "not timed").partition(":")[0]


def _with_changes(index: int, rows: Sequence[Row], measured: Sequence[Measured]) -> Row:
    if index == 0:
        return rows[0]
    ancestors = list(_ancestors(index, rows))
    first = _changes(measured[index], measured[:index])
    previous = _changes(measured[index], [measured[ancestor] for ancestor in ancestors])
    return rows[index].model_copy(update={"versus_first": first, "versus_previous": previous})


def _changes(after: Measured, candidates: Sequence[Measured]) -> Changes:
    """Each figure against the first candidate it can be compared with."""

    def against(compare: Compare) -> Change | None:
        return next((change for one in candidates if (change := compare(one, after))), None)

    return Changes(
        points=against(points_between),
        latency_ratio=against(latency_between),
        size_ratio=against(size_between),
    )


def _ancestors(index: int, rows: Sequence[Row]) -> Iterator[int]:
    """Positions of parent, grandparent, ...; the row before stands in for a parent outside the run."""
    positions = {row.sha256: position for position, row in enumerate(rows)}
    while index > 0:
        parent = positions.get(rows[index].parent or "", index - 1)
        index = parent if parent < index else index - 1
        yield index


def _lesion_from(folder: RunFolder) -> tuple[tuple[LesionFigure, ...], tuple[str, ...]]:
    """The last lesion table of the run, and what could not be read."""
    for stage in reversed(folder.stages):
        if stage.report.stage == "lesion":
            try:
                return tuple(_lesion_figure(entry) for entry in stage.report.results["table"]), ()
            except (KeyError, TypeError, ValidationError):
                return (), (f"{stage.name}: its lesion table cannot be read",)
    return (), ()


def _lesion_figure(entry: dict[str, Any]) -> LesionFigure:
    accuracy = entry["accuracy"]
    return LesionFigure.model_validate({**entry, "n": accuracy["n"], "dataset": accuracy["dataset"]})


def _modules_from(
    models: Sequence[FinishedStage], lesion: Sequence[LesionFigure], rows: Sequence[Row]
) -> tuple[ModuleState, ...]:
    """Modules in order of execution: from the first checkpoint's spec, otherwise from the lesion table."""
    dropped = {name for row in rows[-1:] for name in row.dropped}
    spec = next((spec for stage in models if (spec := spec_in(stage))), None)
    try:
        kinds: dict[str, str] = {info.name: info.kind for info in modules_of(spec)} if spec else {}
    except InputError:
        kinds = {}
    kinds = kinds or {entry.module: entry.kind for entry in lesion}
    return tuple(ModuleState(name=name, kind=kind, dropped=name in dropped) for name, kind in kinds.items())


def _detail_from(stage: FinishedStage) -> StageDetail:
    shared = {"stage", "duration_s", "created", "config", "notes"}
    report = stage.report
    return StageDetail(
        name=stage.name,
        warnings=stage.warnings,
        source=report.source,
        output=report.output,
        environment=report.environment,
        **report.model_dump(include=shared),
    )
