"""Times models against each other and says what may be concluded.

    results = {"session": id,
               "models": [{"path", "artifact", "p50_ms", "p99_ms", "spread_ms", "samples"}, ...],
               "skipped": {sha256: reason}, "busy_cores": float}

A Q/DQ graph is placed for TensorRT: its speed on a CPU says nothing of INT8, so it is timed only on request.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from edgeres.bench.machine import busy_cores
from edgeres.bench.measure import Turn
from edgeres.bench.session import Measured, measure_interleaved
from edgeres.bench.worker import Job
from edgeres.core.artifacts import FUSED_PROFILE, Model, OnnxModel
from edgeres.core.config import Config
from edgeres.core.environment import available_cores, environment
from edgeres.core.errors import DeviceError, InputError
from edgeres.core.metrics import Latency
from edgeres.core.stage import Recorder, StageReport
from edgeres.core.statistics import percentile_interval, spread_ms
from edgeres.runtime import runtime_of

log = logging.getLogger(__name__)

MIN_SAMPLES_P99 = 100  # with fewer the 99th percentile is the slowest call
_MOST_CALLS_A_TURN = 100  # a tiny model needs no more, and its report stays small
_BUSY_SHARE = 0.15  # of the cores; a desktop at rest stays below it
_WIDE = 1.3  # p90 over p50; an undisturbed CPU stays below 1.1
_QDQ_REASON = (
    "not timed: a Q/DQ graph placed for TensorRT says nothing of INT8 speed on a CPU; "
    "time it all the same with --include-qdq"
)
_QDQ_NOTE = "Q/DQ graph placed for TensorRT, here on a CPU: says nothing of INT8 speed on a GPU"


class BenchConfig(Config):
    """How to time."""

    batch: int = Field(1, ge=1, description="images per call, where the model leaves it open")
    threads: int | None = Field(None, ge=1, description="CPU threads; all cores if not given")
    rounds: int = Field(20, ge=1, description="turns of each model, interleaved")
    seconds: float = Field(4.0, gt=0, description="time for each model, all rounds together")
    samples: int = Field(100, ge=1, description="calls of each model at least, whatever the time")
    include_qdq: bool = Field(False, description="time Q/DQ graphs on the CPU too")
    seed: int = Field(0, ge=0, description="of the input images and the order of turns")


@dataclass(frozen=True)
class Session:
    """Latencies that may be compared, in the order of the models, and what makes them doubtful."""

    latencies: tuple[Latency, ...]
    busy_cores: float | None
    warnings: tuple[str, ...] = ()


def bench_report(models: Sequence[Model], config: BenchConfig) -> StageReport:
    """The stage "bench": one interleaved session over what can run here.

    Raises InputError for no models, StageError if one cannot be loaded.
    """
    if not models:
        raise InputError("no model to time; name at least one: edgeres bench model.safetensors model.onnx")
    recorder = Recorder("bench", config, source=None)
    distinct = _distinct(models, recorder)
    skipped = {model.sha256: reason for model in distinct if (reason := reason_to_skip(model, config))}
    names = {model.sha256: label_of(model.path) for model in distinct}
    recorder.results["skipped"] = skipped
    recorder.notes += [f"{names[sha256]}: {reason}" for sha256, reason in skipped.items()]
    chosen = [model for model in distinct if model.sha256 not in skipped]
    if chosen:
        _time(chosen, config, recorder)
    return recorder.finish(output=None)


def reason_to_skip(model: Model, config: BenchConfig) -> str:
    """Why `model` is not timed here, or an empty string."""
    try:
        runtime_of(model)
    except DeviceError as err:
        return f"built, not run: {err}"
    if _is_for_tensorrt(model) and not config.include_qdq:
        return _QDQ_REASON
    return ""


def label_of(path: Path) -> str:
    """`03-export/model.onnx`: stages call their files alike, so the folder tells them apart."""
    return f"{path.parent.name}/{path.name}".lstrip("/")


def warnings_for(latencies: Sequence[Latency], measured: Sequence[Measured], busy: float | None) -> list[str]:
    """What makes the figures doubtful, each with what to do."""
    found = []
    if busy is not None and busy > _BUSY_SHARE * available_cores():
        found.append(
            f"other programs kept {busy:.1f} of {available_cores()} cores busy; stop them and run again: edgeres bench"
        )
    for latency, one in zip(latencies, measured, strict=True):
        name, width = label_of(one.job.path), latency.percentile_ms(90) / latency.p50_ms
        if not one.ready.stable:
            found.append(
                f"{name}: speed still changed after ten seconds of warm-up; fix the clock frequency and run again"
            )
        if width > _WIDE:
            found.append(
                f"{name}: p90 is {width:.2f} times the median; stop other programs"
                " or time longer: edgeres bench --seconds 20"
            )
    return found


def _distinct(models: Sequence[Model], recorder: Recorder) -> list[Model]:
    """The models without those whose content came before."""
    seen: dict[str, Model] = {}
    for model in models:
        twin = seen.setdefault(model.sha256, model)
        if twin is not model:
            recorder.notes.append(f"{label_of(model.path)} is the same file as {label_of(twin.path)}; timed once")
    return list(seen.values())


def measure(models: Sequence[Model], config: BenchConfig) -> Session:
    """Times `models`, each file as often as it is listed, in one interleaved session.

    Raises StageError, naming the model and the cause, if one cannot be loaded.
    """
    jobs = [_job_for(model, config) for model in models]
    turn = Turn(
        seconds=config.seconds / config.rounds,
        least=math.ceil(config.samples / config.rounds),
        most=max(_MOST_CALLS_A_TURN, math.ceil(config.samples / config.rounds)),
    )
    busy_before = busy_cores()
    session, measured = measure_interleaved(jobs, turn, rounds=config.rounds, seed=config.seed)
    busy = max((load for load in (busy_before, busy_cores()) if load is not None), default=None)
    latencies = tuple(_latency_from(*pair, session) for pair in zip(models, measured, strict=True))
    return Session(latencies, busy, tuple(warnings_for(latencies, measured, busy)))


def _time(models: Sequence[Model], config: BenchConfig, recorder: Recorder) -> None:
    done = measure(models, config)
    for model, latency in zip(models, done.latencies, strict=True):
        log.info("%s: median %.3f ms, p99 %.3f ms", label_of(model.path), latency.p50_ms, latency.p99_ms)
    summaries = [_summary(*pair) for pair in zip(models, done.latencies, strict=True)]
    recorder.latency += done.latencies
    recorder.results.update(session=done.latencies[0].session, busy_cores=done.busy_cores, models=summaries)
    recorder.warnings += done.warnings
    recorder.notes += _notes_on([_job_for(model, config) for model in models], config, done.latencies)


def _job_for(model: Model, config: BenchConfig) -> Job:
    fixed = model.batch if isinstance(model, OnnxModel) else None
    return Job(
        path=model.path,
        batch=fixed or config.batch,
        threads=config.threads or available_cores(),
        seed=config.seed,
    )


def _latency_from(model: Model, measured: Measured, session: str) -> Latency:
    return Latency(
        samples_ms=measured.samples_ms,
        batch=measured.job.batch,
        runtime=measured.ready.runtime,
        threads=measured.job.threads,
        session=session,
        artifact=model.sha256,
        warmup=measured.ready.warmup,
        machine=environment().machine,
        note=_QDQ_NOTE if _is_for_tensorrt(model) else "",
        rounds=tuple(len(samples) for samples in measured.rounds),
    )


def _is_for_tensorrt(model: Model) -> bool:
    """Whether `model` holds pairs that a CPU executes slowly."""
    return "int8" in model.precision and not (isinstance(model, OnnxModel) and model.profile == FUSED_PROFILE)


def _summary(model: Model, latency: Latency) -> dict[str, Any]:
    return {
        "path": str(model.path),
        "artifact": model.sha256,
        "p50_ms": percentile_interval(latency, 50).model_dump(),
        "p99_ms": percentile_interval(latency, 99).model_dump(),
        "spread_ms": spread_ms(latency),
        "samples": len(latency.samples_ms),
    }


def _notes_on(jobs: Sequence[Job], config: BenchConfig, latencies: Sequence[Latency]) -> list[str]:
    notes = [
        f"{label_of(job.path)}: its batch is fixed to {job.batch}, {config.batch} was asked for"
        for job in jobs
        if job.batch != config.batch
    ]
    if min(len(latency.samples_ms) for latency in latencies) < MIN_SAMPLES_P99:
        notes.append(f"fewer than {MIN_SAMPLES_P99} calls: p99 is close to the slowest one")
    return notes
