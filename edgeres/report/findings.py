"""What stages found out that make no network: lesions, a sweep, costs by the clock, histograms, throughput."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, ValidationError

from edgeres.core.config import Record, record_from_json
from edgeres.core.errors import InputError
from edgeres.core.metrics import Interval
from edgeres.core.records.latency import LATENCY_NAME, LatencyTable, ModuleCost
from edgeres.core.records.lesion import Lesion
from edgeres.core.records.sweep import SWEEP_NAME, Sweep, SweepFigure, figure_of
from edgeres.core.stage import StageReport
from edgeres.report.folder import Figure, FinishedStage, RunFolder, is_possible

_F = TypeVar("_F")
Problems = tuple[str, ...]
INVALID = "invalid"
_QUANTIZERS = {"quantize", "qat"}
_SCALING = {"channels", "equalize"}  # after which tensors hold other multiples than calibrated; once there was equalize


class LesionFigure(Record):
    """Change of top-1 in points without one module, and the half-width of its paired 95 % interval."""

    module: str
    kind: str
    change_points: float
    half_width_points: float
    n: int
    dataset: str

    @property
    def lost_points(self) -> float:
        """Of top-1, without it."""
        return 0.0 - self.change_points


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


class TensorHistogram(Figure):
    """|x| of one tensor in equal bins from 0 to `top`; exact zeros are apart.

    `amax` and `sqnr_db` by calibrator: the clipping bound and the signal over the noise of rounding and clipping.
    `chosen` is the calibrator whose bound was taken, empty where that is not known.
    """

    tensor: str
    top: float
    counts: tuple[int, ...]
    zeros: int
    n: int
    amax: dict[str, float]
    sqnr_db: dict[str, float | None]
    chosen: str = ""


class HistogramFigure(Figure):
    """The worst tensors, the one with the least SQNR first: those that INT8 suits least."""

    stage: str
    images: int
    dataset: str
    tensors: int
    shown: tuple[TensorHistogram, ...]
    note: str = ""


class TimedWay(Figure):
    """One network at one batch: images a second and the time of a call, of inference alone or end to end.

    `parts_ms`: mean time of decoding, preprocessing, inference, ... of an image, end to end only.
    """

    name: str
    way: str
    runtime: str
    batch: int
    p50_ms: Interval
    images_per_s: Interval
    samples: int
    parts_ms: dict[str, float] = Field(default_factory=dict)


def lesions_in(folder: RunFolder) -> tuple[tuple[LesionFigure, ...], Problems]:
    """The last lesion table of the run, and what could not be read; so are all below."""
    found, problems = _newest(folder, "lesion", _lesions, "its lesion table cannot be read")
    return found or (), problems


def sweep_in(folder: RunFolder) -> tuple[SweepFigure | None, Problems]:
    """The last sweep."""
    return _newest(
        folder, "sweep", _sweep, f"its {SWEEP_NAME} cannot be read; make it again: edgeres prune --sweep 1..6"
    )


def costs_in(folder: RunFolder) -> tuple[CostFigure | None, Problems]:
    """What each module costs by the clock, as the last latency table has it."""
    problem = "its latency table cannot be read; measure again: edgeres bench --per-module"
    return _newest(folder, "latency", _costs, problem)


def histograms_in(folder: RunFolder) -> tuple[HistogramFigure | None, Problems]:
    """Of the last calibration, with the bounds the last quantization took."""
    problem = "its histograms cannot be read; calibrate again: edgeres calibrate"
    found, problems = _newest(folder, "calibrate", _histograms, problem)
    taken = next((one.report for one in reversed(folder.stages) if one.report.stage in _QUANTIZERS), None)
    if found is None:
        return None, problems
    note = _why_unknown(taken)
    shown = found.shown if note or not taken else tuple(_with_choice(one, taken) for one in found.shown)
    return found.model_copy(update={"shown": shown, "note": note}), problems


def ways_in(folder: RunFolder) -> tuple[tuple[TimedWay, ...], Problems]:
    """Throughput and end to end of the last bench."""
    names = {one.report.output.sha256: one.name for one in folder.networks if one.report.output}
    problem = "its throughput cannot be read; measure again: edgeres bench"
    found, problems = _newest(folder, "bench", lambda stage: tuple(_ways(stage.report.results, names)), problem)
    return found or (), problems


def verdicts_of(folder: RunFolder) -> dict[str, str]:
    """What each session that is not valid says against itself, by its id."""
    found = {}
    for stage in folder.stages:
        session, verdict = (stage.report.results.get(name) for name in ("session", "verdict"))
        if isinstance(session, str) and isinstance(verdict, str) and verdict.startswith(INVALID):
            found[session] = verdict
    return found


def _newest(
    folder: RunFolder, name: str, read: Callable[[FinishedStage], _F], problem: str
) -> tuple[_F | None, Problems]:
    """What `read` finds in the last finished stage of that name, None without one; the problem where it cannot."""
    stage = folder.newest(name)
    if stage is None:
        return None, ()
    try:
        return read(stage), ()
    except (ValidationError, InputError, KeyError, TypeError):
        return None, (f"{stage.name}: {problem}",)


def _lesions(stage: FinishedStage) -> tuple[LesionFigure, ...]:
    rows = [Lesion.model_validate(entry) for entry in stage.report.results["table"]]
    own = {"module", "kind", "change_points", "half_width_points"}
    return tuple(
        LesionFigure(n=row.accuracy.n, dataset=row.accuracy.dataset, **row.model_dump(include=own)) for row in rows
    )


def _sweep(stage: FinishedStage) -> SweepFigure:
    """Of sweep.json, or what the report repeats of it: runtime and machine stand in the file alone."""
    try:
        sweep = record_from_json(Sweep, stage.path / SWEEP_NAME)
    except InputError:
        unknown: dict[str, Any] = {"runtime": "runtime unknown", "machine": "machine unknown", "batch": 1, "threads": 0}
        rows = stage.report.results.get("rows")
        sweep = Sweep.model_validate({"model_sha256": "", "recover": (), **unknown, "rows": rows})
    _refuse_unless(bool(sweep.rows))
    _refuse_unless(all(is_possible(one.accuracy) for row in sweep.rows for one in (row.bare, row.final)))
    return figure_of(sweep, stage.name)


def _costs(stage: FinishedStage) -> CostFigure:
    """Of latency.json, or what the report repeats of it: runtime and machine stand in the file alone."""
    try:
        table = record_from_json(LatencyTable, stage.path / LATENCY_NAME)
    except InputError:
        results = stage.report.results
        unknown = {"conditions": "runtime unknown", "machine": "machine unknown"}
        values = {**results, **unknown, "rows": results.get("modules")}
    else:
        shared = table.model_dump(include={"whole_ms", "rest_ms", "fit_error", "machine"})
        values = {**shared, "networks": len(table.timed), "conditions": _conditions(table), "rows": table.table}
    figure = CostFigure.model_validate({"stage": stage.name, **values})
    _refuse_unless(bool(figure.rows))
    return figure


def _conditions(table: LatencyTable) -> str:
    threads = "" if table.is_of_board else f", threads {table.conditions.threads}"
    return f"{table.runtime}, {table.precision.lower()}, batch {table.conditions.batch}{threads}"


def _histograms(stage: FinishedStage) -> HistogramFigure | None:
    results = stage.report.results
    if "histograms" not in results:
        return None
    own = {"stage": stage.name, "dataset": str(stage.report.config.get("data", "")), "shown": results["histograms"]}
    figure = HistogramFigure.model_validate({**results, **own})
    for one in figure.shown:
        _refuse_unless(one.top > 0 and bool(one.counts) and min(one.counts) >= 0 and sum(one.counts) > 0)
    return figure


def _why_unknown(taken: StageReport | None) -> str:
    """Why none of the calibrators' bounds is the one in the file, or empty."""
    if taken is None:
        return "Nothing was quantized with these bounds in this run."
    if taken.stage == "qat":
        return "The bounds were trained further, from those drawn here."
    improve = taken.config.get("improve")
    scaled = ", ".join(sorted(_SCALING.intersection(map(str, improve if isinstance(improve, list) else ()))))
    if scaled:
        return f"Channels were scaled ({scaled}): the file's bounds belong to other values than these."
    if not str(taken.config.get("profile", "tensorrt")).startswith("tensorrt"):
        return "The file's ranges are not symmetric, so none of these bounds is its own."
    return ""


def _with_choice(one: TensorHistogram, taken: StageReport) -> TensorHistogram:
    by_tensor: Any = taken.results.get("method_of")
    method = by_tensor.get(one.tensor) if isinstance(by_tensor, dict) else None
    method = str(method or taken.config.get("method", ""))
    return one.model_copy(update={"chosen": method if method in one.amax else ""})


def _ways(results: dict[str, Any], names: dict[str, str]) -> Iterator[TimedWay]:
    whole = results.get("end_to_end")
    several = {
        "inference": results.get("throughput"),
        "end to end": whole.get("models") if isinstance(whole, dict) else None,
    }
    for way, rows in several.items():
        for row in rows if isinstance(rows, list) else ():
            _refuse_unless(isinstance(row, dict))
            name = names.get(str(row.get("artifact")), Path(str(row.get("path", "unknown"))).name)
            yield TimedWay.model_validate({**row, "name": name, "way": way})


def _refuse_unless(is_sound: bool) -> None:  # a condition, no flag
    if not is_sound:
        raise InputError("what the stage wrote cannot be")
