"""From what the agent measured to what a report says: latency, energy, validity, and why one of them is unknown."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import Any

from edgeres.bench.agent.figures import clock_moved, latency_problems, percentile, rest_problems, validity
from edgeres.bench.board_answers import Clocks, Heat, MeasureDone, NotWeighed
from edgeres.bench.config import BoardConfig
from edgeres.core.metrics import Energy, Latency
from edgeres.core.stage import Recorder
from edgeres.core.statistics import MIN_ROUNDS, P99_CALLS

_OF_THE_CALLS = {"p50_ms", "images_per_s", "heat", "damaged_samples"}  # that a report keeps
_P99_ROOM = 1.1  # more seconds than the calls so far would take, so that the next run has enough
_MOSTLY_STEPS = 2  # a half-width below so many times the steps' share comes from them
_ROUNDS = 10  # at most: each turn loads the engine anew and warms up
_OF_FIRST = ("energy", "profile", "layers")  # what the first run says besides
_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?")


def shares_of(duration_s: int) -> list[int]:
    """The seconds of each round, whole ones as trtexec counts; empty where they are too few for an interval."""
    rounds = min(_ROUNDS, duration_s)
    ends = [duration_s * place // rounds for place in range(rounds + 1)]
    return [end - start for start, end in pairwise(ends)] if rounds >= MIN_ROUNDS else []


def joined(weighed: MeasureDone | None, turns: Sequence[MeasureDone]) -> MeasureDone:
    """One answer about an engine that was `weighed` first, if at all, and then timed in these turns, one a round."""
    answers = [weighed, *turns] if weighed else turns
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
    return turns[0].model_copy(update={**changed, **{name: getattr(answers[0], name) for name in _OF_FIRST}})


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


def note(
    recorder: Recorder, answer: MeasureDone, config: BoardConfig, *, machine: str, session: str, rounds: tuple[int, ...]
) -> None:
    """Writes down what was measured and what makes it doubtful.

    `rounds`: how many calls, whose GPU compute time it is, each took; empty for one run alone.
    """
    assert recorder.source is not None
    when = f"in {len(rounds)} rounds, each after" if rounds else "after"
    problems = [*answer.problems, *_of_rest(answer)]
    invalid = "; INVALID, see the warnings" if problems else ""
    whose: dict[str, Any] = {"artifact": recorder.source.sha256, "machine": machine, "batch": answer.batch}
    recorder.latency.append(
        Latency(
            samples_ms=answer.samples_ms,
            runtime=f"tensorrt {answer.tensorrt}",
            threads=0,
            session=session,
            warmup=0,
            note=f"GPU compute time on the board, {when} {config.warmup_s} s of warm-up{invalid}",
            rounds=rounds,
            **whose,
        )
    )
    calls, is_valid = len(answer.samples_ms), validity(problems, answer.heat.model_dump())
    p99_ms = answer.p99_ms if calls >= P99_CALLS else None
    known = {"p99_ms": p99_ms, "is_valid": is_valid, "problems": problems}
    recorder.results["figures"] |= answer.model_dump(include=_OF_THE_CALLS, mode="json") | known
    recorder.warnings += [f"invalid: {problem}" for problem in problems]
    if is_valid is None:
        unknown = f"whether the GPU's clock held still under load is unknown: {answer.heat.clock_unknown}"
        recorder.warnings.append(f"{unknown}; longer than --duration-s {config.duration_s} may show it")
    recorder.warnings += distinct(answer.warnings)
    if calls < P99_CALLS:
        enough_s = math.ceil(_P99_ROOM * config.duration_s * P99_CALLS / calls)
        longer = f"measure longer: --duration-s {enough_s}"
        recorder.notes.append(f"p99 needs {P99_CALLS} calls, there were {calls}; {longer}")
    _note_energy(recorder, answer, whose)


def _of_rest(answer: MeasureDone) -> list[str]:
    """What its power at rest says against the run."""
    found = answer.energy
    if isinstance(found, NotWeighed):
        return []
    return rest_problems(found.idle_w, found.load_w, found.mj_half_width / found.image_ms if found.image_ms else 0.0)


def _note_energy(recorder: Recorder, answer: MeasureDone, whose: dict[str, Any]) -> None:
    """Of an image, and what is not in its ±; or why it is not known."""
    found = answer.energy
    if isinstance(found, NotWeighed):
        recorder.notes.append(f"no energy: {found.reason}")
        return
    if _of_rest(answer):
        recorder.notes.append("no energy: power at rest is not clearly below that under load, see the warnings")
        return
    said = found.model_dump(include=set(Energy.model_fields))
    recorder.energy.append(Energy(half_width_mj=found.mj_half_width, **said, **whose))
    if found.mj_half_width <= _MOSTLY_STEPS * found.step_w * found.image_ms:
        why = "the means of the samples' eighths hardly differ; most of the ± is the step of 1 mW of each rail"
        recorder.notes.append(f"energy: {why}, and how far the sensor is off is not in it")
