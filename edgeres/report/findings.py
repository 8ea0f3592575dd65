"""What stages found out that make no network: lesions, a sweep, costs by the clock, histograms, throughput."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from edgeres.bench.validity import DOUBTFUL, INVALID
from edgeres.core.config import Record, record_from_json, unless_usual
from edgeres.core.distances import LOST_OF
from edgeres.core.errors import InputError
from edgeres.core.metrics import Interval
from edgeres.core.records.frontier import Frontier
from edgeres.core.records.latency import LATENCY_NAME, LatencyTable, ModuleCost
from edgeres.core.records.lesion import Lesion
from edgeres.core.records.sweep import SWEEP_NAME, Sweep, SweepFigure, figure_of
from edgeres.core.stage import StageReport
from edgeres.report.folder import Figure, FinishedStage, RunFolder, command_of, is_possible
from edgeres.report.networks import StageNetwork

Reader = Callable[[FinishedStage, RunFolder], Any]
_QUANTIZERS = {"quantize", "qat"}
_SCALING = {"channels", "equalize"}  # after which tensors hold other multiples than calibrated; once there was equalize


class LesionFigure(Record):
    """Change without one module, in points of top-1 or what else is lost, and half of its 95 % interval.

    `refitted_points`: what is lost once the module behind was refitted.
    """

    module: str
    kind: str
    change_points: float
    half_width_points: float
    n: int
    dataset: str
    lost_are: str = LOST_OF["kl"]
    refitted_points: float | None = None

    _written = unless_usual("lost_are", "refitted_points")

    @property
    def lost_points(self) -> float:
        """Without it, positive."""
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


def findings_in(folder: RunFolder) -> tuple[dict[str, Any], list[str]]:
    """What the last stage that looked for it has found, by its name in the summary, and what of it cannot be read."""
    found: dict[str, Any] = {}
    problems: list[str] = []
    done = [one for one in reversed(folder.stages) if not one.report.config.get("plan_only")]
    for name, (stage_name, read, what) in _READERS.items():
        if stage := next((one for one in done if one.report.stage == stage_name), None):
            try:
                found[name] = read(stage, folder)
            except (ValidationError, InputError, KeyError, TypeError):
                again = command_of(stage, folder.stages)
                problems.append(f"{stage.name}: its {what} cannot be read; make it again: {again}")
    return found, problems


def verdicts_of(folder: RunFolder, *, doubtful: bool = False) -> dict[str, str]:
    """What each session that is not valid says against itself, by its id; of those that are `doubtful` too."""
    found, kinds = {}, (INVALID, DOUBTFUL) if doubtful else (INVALID,)
    for stage in folder.stages:
        session, verdict = (stage.report.results.get(name) for name in ("session", "verdict"))
        if isinstance(session, str) and isinstance(verdict, str) and verdict.startswith(kinds):
            found[session] = verdict
    return found


def with_verdicts(networks: Iterable[StageNetwork], folder: RunFolder) -> list[StageNetwork]:
    """With what a session that is not steady says against itself as the note that goes with each of its times."""
    said = verdicts_of(folder, doubtful=True)
    times = ((one, one.latency, said.get(one.latency.session) if one.latency else None) for one in networks)
    return [
        replace(one, latency=latency.model_copy(update={"note": "; ".join(filter(None, (verdict, latency.note)))}))
        if latency and verdict
        else one
        for one, latency, verdict in times
    ]


def _lesions(stage: FinishedStage, folder: RunFolder) -> tuple[LesionFigure, ...]:
    own = {"module", "kind", "change_points", "half_width_points"}
    return tuple(
        LesionFigure(
            n=row.n,
            dataset=row.judged_on.dataset,
            lost_are=LOST_OF[row.measure],
            refitted_points=row.refitted.cost.value if row.refitted else None,
            **row.model_dump(include=own),
        )
        for row in map(Lesion.model_validate, stage.report.results["table"])
    )


def _sweep(stage: FinishedStage, folder: RunFolder) -> SweepFigure:
    """Of sweep.json, or what the report repeats of it: runtime and machine stand in the file alone."""
    try:
        sweep = record_from_json(Sweep, stage.path / SWEEP_NAME)
    except InputError:
        unknown: dict[str, Any] = {"runtime": "runtime unknown", "machine": "machine unknown", "batch": 1, "threads": 0}
        rows = stage.report.results.get("rows")
        sweep = Sweep.model_validate({"model_sha256": "", "recover": (), **unknown, "rows": rows})
    judged = [one for row in sweep.rows for one in (row.bare, row.final)]
    _refuse_unless(bool(judged) and all(is_possible(one.accuracy) for one in judged if one.accuracy))
    _refuse_unless(all((one.accuracy is None) != (one.closeness is None) for one in judged))
    return figure_of(sweep, stage.name)


def _costs(stage: FinishedStage, folder: RunFolder) -> CostFigure:
    """Of latency.json, or what the report repeats of it: runtime and machine stand in the file alone."""
    try:
        table = record_from_json(LatencyTable, stage.path / LATENCY_NAME)
    except InputError:
        results = stage.report.results
        unknown = {"conditions": "runtime unknown", "machine": "machine unknown"}
        values = {**results, **unknown, "rows": results.get("modules")}
    else:
        shared = table.model_dump(include={"whole_ms", "rest_ms", "fit_error", "machine"})
        threads = "" if table.is_of_board else f", threads {table.conditions.threads}"
        said = f"{table.runtime}, {table.precision.lower()}, batch {table.conditions.batch}{threads}"
        values = {**shared, "networks": len(table.timed), "conditions": said, "rows": table.table}
    figure = CostFigure.model_validate({"stage": stage.name, **values})
    _refuse_unless(bool(figure.rows))
    return figure


def _histograms(stage: FinishedStage, folder: RunFolder) -> HistogramFigure | None:
    """With the bounds that the last quantization took."""
    results = stage.report.results
    if "histograms" not in results:
        return None
    own = {"stage": stage.name, "dataset": str(stage.report.config.get("data", "")), "shown": results["histograms"]}
    figure = HistogramFigure.model_validate({**results, **own})
    for one in figure.shown:
        _refuse_unless(one.top > 0 and bool(one.counts) and min(one.counts) >= 0 and sum(one.counts) > 0)
    taken = next((one.report for one in reversed(folder.stages) if one.report.stage in _QUANTIZERS), None)
    note = _why_unknown(taken)
    shown = figure.shown if note or not taken else tuple(_with_choice(one, taken) for one in figure.shown)
    return figure.model_copy(update={"shown": shown, "note": note})


def _why_unknown(taken: StageReport | None) -> str:
    """Why none of the calibrators' bounds is the one in the file, or empty."""
    if taken is None:
        return "Nothing was quantized with these bounds in this run."
    if taken.stage == "qat":
        return "The bounds were trained further, from those drawn here."
    improved = taken.results.get("improve", taken.config.get("improve"))
    improved = {*map(str, improved)} if isinstance(improved, list) else set()
    if scaled := ", ".join(sorted(_SCALING & improved)):
        return f"Channels were scaled ({scaled}): the file's bounds belong to other values than these."
    if "tuned" in improved:
        return "The bounds were tuned further, from those drawn here."
    if not str(taken.config.get("profile", "tensorrt")).startswith("tensorrt"):
        return "The file's ranges are not symmetric, so none of these bounds is its own."
    return ""


def _with_choice(one: TensorHistogram, taken: StageReport) -> TensorHistogram:
    by_tensor: Any = taken.results.get("method_of")
    method = by_tensor.get(one.tensor) if isinstance(by_tensor, dict) else None
    method = str(method or taken.config.get("method", ""))
    return one.model_copy(update={"chosen": method if method in one.amax else ""})


def _ways(stage: FinishedStage, folder: RunFolder) -> tuple[TimedWay, ...]:
    """Throughput and end to end."""
    names = {one.report.output.sha256: one.name for one in folder.networks if one.report.output}
    results = stage.report.results
    whole, found = results.get("end_to_end"), []
    several = {
        "inference": results.get("throughput"),
        "end to end": whole.get("models") if isinstance(whole, dict) else (),
    }
    for way, row in ((way, row) for way, rows in several.items() if isinstance(rows, list) for row in rows):
        _refuse_unless(isinstance(row, dict))
        name = names.get(str(row.get("artifact")), Path(str(row.get("path", "unknown"))).name)
        found.append(TimedWay.model_validate({**row, "name": name, "way": way}))
    return tuple(found)


def _refuse_unless(is_sound: bool) -> None:  # a condition, no flag
    if not is_sound:
        raise InputError("what the stage wrote cannot be")


def _frontier(stage: FinishedStage, folder: RunFolder) -> Frontier:
    found = Frontier.model_validate(stage.report.results["frontier"])
    _refuse_unless(bool(found.tried))
    return found


# Name in the summary -> stage, what reads it, what it is called
_READERS: dict[str, tuple[str, Reader, str]] = {
    "lesion": ("lesion", _lesions, "lesion table"),
    "sweep": ("sweep", _sweep, SWEEP_NAME),
    "frontier": ("optimize", _frontier, "frontier"),
    "costs": ("latency", _costs, "latency table"),
    "histograms": ("calibrate", _histograms, "histograms"),
    "ways": ("bench", _ways, "throughput"),
}
