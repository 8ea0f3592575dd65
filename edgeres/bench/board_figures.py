"""From what the agent measured to what a report says: latency, energy, validity, and why one of them is unknown."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import Any

from edgeres.bench.agent.figures import clock_moved, latency_problems, percentile, validity
from edgeres.bench.board_answers import Clocks, Heat, MeasureDone, NotWeighed
from edgeres.core.artifacts import Model
from edgeres.core.metrics import Energy, Latency
from edgeres.core.statistics import MIN_ROUNDS, P99_CALLS

_P99_ROOM = 1.1  # more seconds than the calls so far would take, so that the next run has enough
_MOSTLY_STEPS = 2  # a half-width below so many times the steps' share comes from them
_ROUNDS = 10  # at most: each turn loads the engine anew and warms up
_WEIGHED = ("energy", "profile", "layers")  # what the run that weighs says besides
_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?")


def shares_of(duration_s: int) -> list[int]:
    """The seconds of each round, whole ones as trtexec counts; empty where they are too few for an interval."""
    rounds = min(_ROUNDS, duration_s)
    ends = [duration_s * place // rounds for place in range(rounds + 1)]
    return [end - start for start, end in pairwise(ends)] if rounds >= MIN_ROUNDS else []


def joined(weighed: MeasureDone, turns: Sequence[MeasureDone]) -> MeasureDone:
    """One answer about an engine that was `weighed` first and then timed in these turns, one a round."""
    answers = [weighed, *turns]
    samples, heat = [sample for turn in turns for sample in turn.samples_ms], _heat_of(answers)
    problems = [problem for answer in answers for problem in answer.problems]
    modes = dict.fromkeys(answer.board.power_mode.name if answer.board.power_mode else "unknown" for answer in answers)
    problems += latency_problems(samples)  # what was set otherwise within a turn the agent has seen
    problems += [f"the power mode changed between the rounds: {' and '.join(modes)}"] if len(modes) > 1 else []
    problems += clock_moved(heat.gpu_mhz.lowest, heat.gpu_mhz.highest) if heat.gpu_mhz else []
    changed = {
        "samples_ms": tuple(samples),
        "p50_ms": percentile(samples, 50),
        "p99_ms": percentile(samples, 99),
        "images_per_s": _rate_of(turns),
        "heat": heat,
        "damaged_samples": sum(answer.damaged_samples for answer in answers),
        "problems": tuple(distinct(problems)),
        "warnings": tuple(distinct([line for answer in answers for line in answer.warnings])),
        "restored": tuple(line for answer in answers for line in answer.restored),
    }
    return turns[0].model_copy(update={**changed, **{name: getattr(weighed, name) for name in _WEIGHED}})


def distinct(lines: Sequence[str]) -> list[str]:
    """The first of those that differ in their figures alone, with how often it came."""
    kinds: dict[str, list[str]] = {}
    for line in lines:
        kinds.setdefault(_NUMBER.sub("#", line), []).append(line)
    return [same[0] + (f" ({len(same)} times)" if len(same) > 1 else "") for same in kinds.values()]


def _rate_of(turns: Sequence[MeasureDone]) -> float | None:
    """Images a second over all turns."""
    known = [(turn.batch * len(turn.samples_ms), turn.images_per_s) for turn in turns if turn.images_per_s]
    return sum(n for n, _ in known) / sum(n / rate for n, rate in known) if len(known) == len(turns) else None


def _heat_of(answers: Sequence[MeasureDone]) -> Heat:
    """Before the first, the least and most of all; clocks of one source only."""
    heats = [answer.heat for answer in answers]
    source = next((heat.clock_source for heat in heats if heat.gpu_mhz), None)
    clocks = [heat.gpu_mhz for heat in heats if heat.gpu_mhz and heat.clock_source == source]
    hottest = [heat.highest_c for heat in heats if heat.highest_c is not None]
    around = None
    if clocks:
        lowest, highest = min(one.lowest for one in clocks), max(one.highest for one in clocks)
        around = Clocks(lowest=lowest, median=median(one.median for one in clocks), highest=highest)
    changed = {
        "highest_c": max(hottest, default=None),
        "after_c": heats[-1].after_c,
        "samples": sum(heat.samples for heat in heats),
        "gpu_mhz": around,
        "clock_source": source,
        "clock_unknown": None if clocks else heats[0].clock_unknown,
    }
    return heats[0].model_copy(update=changed)


def figures_of(answer: MeasureDone) -> dict[str, Any]:
    """What a report keeps beside the samples."""
    shared = {"p50_ms", "images_per_s", "heat", "problems", "damaged_samples"}
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


def latency_of(
    answer: MeasureDone, model: Model, machine: str, *, warmup_s: int, session: str, rounds: tuple[int, ...]
) -> Latency:
    """GPU compute time of single calls in ms; `rounds`: how many of them each took, empty for one run alone."""
    when = f"in {len(rounds)} rounds, each after" if rounds else "after"
    return Latency(
        samples_ms=answer.samples_ms,
        batch=answer.batch,
        runtime=f"tensorrt {answer.tensorrt}",
        threads=0,
        session=session,
        artifact=model.sha256,
        warmup=0,
        machine=machine,
        note=f"GPU compute time on the board, {when} {warmup_s} s of warm-up"
        + ("; INVALID, see the warnings" if answer.problems else ""),
        rounds=rounds,
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
