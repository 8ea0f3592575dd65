"""From what the agent measured to what a report says: latency, energy, validity, and why one of them is unknown."""

from __future__ import annotations

import math
import uuid
from typing import Any

from edgeres.bench.agent.figures import validity
from edgeres.bench.board_answers import MeasureDone, NotWeighed
from edgeres.core.artifacts import Model
from edgeres.core.metrics import Energy, Latency
from edgeres.core.statistics import P99_CALLS

_P99_ROOM = 1.1  # more seconds than the calls so far would take, so that the next run has enough
_MOSTLY_STEPS = 2  # a half-width below so many times the steps' share comes from them


def figures_of(answer: MeasureDone) -> dict[str, Any]:
    """What a report keeps beside the samples."""
    shared = {"p50_ms", "images_per_s", "heat", "problems", "summary", "damaged_samples"}
    enough = len(answer.samples_ms) >= P99_CALLS
    return {
        **answer.model_dump(include=shared, mode="json"),
        "p99_ms": answer.p99_ms if enough else None,
        "is_valid": _is_valid(answer),
    }


def _is_valid(answer: MeasureDone) -> bool | None:
    return validity(list(answer.problems), answer.heat.model_dump())


def p99_notes(answer: MeasureDone, duration_s: int) -> list[str]:
    """Why there is no 99th percentile, and how long a run has one."""
    calls = len(answer.samples_ms)
    if calls >= P99_CALLS:
        return []
    enough_s = math.ceil(_P99_ROOM * duration_s * P99_CALLS / calls)
    return [f"p99 needs {P99_CALLS} calls, there were {calls}; measure longer: --duration-s {enough_s}"]


def doubts_of(answer: MeasureDone) -> list[str]:
    """Why a run with nothing against it is not called valid."""
    if _is_valid(answer) is not None:
        return []
    return [f"whether the GPU's clock held still under load is unknown: {answer.heat.clock_unknown}"]


def energy_notes(answer: MeasureDone) -> list[str]:
    """What is not in an energy's ±, where the samples themselves did not vary."""
    found = answer.energy
    if isinstance(found, NotWeighed):
        return [f"no energy: {found.reason}"]
    if found.mj_half_width > _MOSTLY_STEPS * found.step_w * found.image_ms:
        return []
    why = "the power samples did not vary; the ± is the step of 1 mW in which tegrastats prints each rail"
    return [f"energy: {why}, and how far the sensor is off is not in it"]


def latency_of(answer: MeasureDone, model: Model, machine: str, *, warmup_s: int) -> Latency:
    """GPU compute time of single calls in ms."""
    return Latency(
        samples_ms=answer.samples_ms,
        batch=answer.batch,
        runtime=f"tensorrt {answer.tensorrt}",
        threads=0,
        session=uuid.uuid4().hex,
        artifact=model.sha256,
        warmup=0,
        machine=machine,
        note=f"GPU compute time on the board, after {warmup_s} s of warm-up"
        + ("; INVALID, see the warnings" if answer.problems else ""),
    )


def energy_of(answer: MeasureDone, model: Model, machine: str) -> list[Energy]:
    """Of one image; nothing where it is not known."""
    found = answer.energy
    if isinstance(found, NotWeighed):
        return []
    same = {"mj_per_image", "load_w", "idle_w", "load_samples", "idle_samples", "source", "is_input", "is_partial"}
    return [
        Energy(
            half_width_mj=found.mj_half_width,
            batch=answer.batch,
            artifact=model.sha256,
            machine=machine,
            **found.model_dump(include=same),
        )
    ]
