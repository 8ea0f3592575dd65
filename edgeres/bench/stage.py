"""Times models against each other and says what may be concluded.

    results = {"session": id, "verdict": "steady" | "doubtful: ..." | "invalid: ...", "rounds": n,
               "models": [{"path", "artifact", "p50_ms", "p90_ms", "p95_ms", "p99_ms", "images_per_s", "precision",
                           "spread_ms", "samples", "outliers", "level"}, ...],
               "throughput": [{"path", "artifact", "batch", "p50_ms", "images_per_s", "samples"}, ...],
               "end_to_end": {"data", "files", "models": [...]} | {"not_timed": reason},
               "precision": {"asked", "worst", "reached"} | None,
               "skipped": {sha256: reason}, "busy_cores": float, "around": {...}}

Percentiles and rates are intervals; null where there are too few calls for one.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from typing import NamedTuple

from edgeres.bench.config import BenchConfig as BenchConfig
from edgeres.bench.endtoend import Parts
from edgeres.bench.figures import few_calls, precision_figures, results_of
from edgeres.bench.power import energies_of
from edgeres.bench.session import Measured, enough_for, measure_interleaved
from edgeres.bench.tasks import Task, is_for_tensorrt, label_of, reason_to_skip, task_of, tasks_for
from edgeres.bench.validity import BENCH, Around, verdict_from, warnings_for
from edgeres.bench.watch import Watch, busy_cores
from edgeres.core.amounts import counted
from edgeres.core.artifacts import Model
from edgeres.core.config import command_with
from edgeres.core.environment import environment
from edgeres.core.errors import InputError
from edgeres.core.metrics import Latency
from edgeres.core.stage import Recorder, StageReport
from edgeres.core.statistics import P99_CALLS

log = logging.getLogger(__name__)

_LONGER_S = 20
_QDQ_NOTE = "INT8 graph not made with --profile ort-cpu, here on a CPU: says nothing of INT8 speed on a GPU"


class Session(NamedTuple):
    """Latencies that may be compared, in the order of the models, and what makes them doubtful.

    `parts_ms` holds for each latency the parts of its calls where it was timed from file to class, else nothing.
    """

    latencies: tuple[Latency, ...]
    warnings: tuple[str, ...] = ()
    around: Around = Around(None, None)
    parts_ms: tuple[tuple[Parts, ...], ...] = ()

    @property
    def verdict(self) -> str:
        """What the machine and the samples say of it."""
        return verdict_from(self.around, self.warnings)


def bench_report(models: Sequence[Model], config: BenchConfig, *, command: str = "") -> StageReport:
    """The stage "bench": one interleaved session over what can run here.

    Warnings advise to run `command` again with the options of `config`, if not given with the models by name.

    Raises InputError for no models or unreadable images, StageError if a model cannot be loaded.
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
        for line in recorder.notes:  # which the end says again
            log.info("%s", line)
        of = f"{len(chosen)} of " if len(chosen) < len(models) else ""
        log.info("bench: %s%s%s", of, counted(len(models), "model"), ", interleaved" if len(chosen) > 1 else "")
        _time(chosen, config, recorder, command or shlex.join([*BENCH.split(), *(str(one.path) for one in models)]))
    return recorder.finish(output=None)


def measure(models: Sequence[Model], config: BenchConfig, *, names: Sequence[str] = (), command: str = "") -> Session:
    """Times `models`, each file as often as it is listed, in one interleaved session; no other batches, no images.

    Warnings call them by `names`, else by their files', and advise to run `command` again, if one is given.
    Raises StageError, naming the model and the cause, if one cannot be loaded.
    """
    tasks = [task_of(model, config) for model in models]
    tasks = [task._replace(name=name) for task, name in zip(tasks, names, strict=True)] if names else tasks
    return _held(tasks, config, models=len(models), command=command)


def _distinct(models: Sequence[Model], recorder: Recorder) -> list[Model]:
    """The models without those whose content comes again: a file is called as the last that was given."""
    last = {model.sha256: model for model in models}
    for model in models:
        twin = last[model.sha256]
        if twin is not model:
            recorder.notes.append(f"{label_of(model.path)} is the same file as {label_of(twin.path)}; timed once")
    return list(last.values())


def _held(tasks: Sequence[Task], config: BenchConfig, *, models: int, command: str, longer: str = "") -> Session:
    """One session over `tasks`, the first `models` of which must reach the precision asked for."""
    before, watch = busy_cores(), Watch()
    jobs = [task.job for task in tasks]
    share = config.precision_share
    enough = None if share is None else enough_for(share, models=models, limit_s=config.max_seconds)
    session, measured = measure_interleaved(
        jobs, config.turn, rounds=config.rounds, seed=config.seed, enough=enough, watch=watch
    )
    around = Around(before, busy_cores(), tuple(watch.readings))
    latencies = tuple(_latency_from(*pair, session) for pair in zip(tasks, measured, strict=True))
    names = [task.name for task in tasks]
    warnings = warnings_for(names, latencies, measured=measured, around=around, command=command, longer=longer)
    parts = tuple(tuple(one.parts_ms) for one in measured)
    return Session(latencies, tuple(warnings), around, parts)


def _time(models: Sequence[Model], config: BenchConfig, recorder: Recorder, command: str) -> None:
    tasks = tasks_for(models, config)
    longer = command_with(command, config, seconds=max(_LONGER_S, 2 * config.seconds))
    done = _held(tasks.all, config, models=len(models), command=command_with(command, config), longer=longer)
    plain = done.latencies[: len(models)]
    for task, latency in zip(tasks.plain, plain, strict=True):
        log.info("%s: median %.3f ms, n = %d", task.name, latency.p50_ms, len(latency.samples_ms))
    recorder.latency += plain
    energies, unweighed, at_work = energies_of(tasks.plain, environment().machine)
    done = done._replace(warnings=(*done.warnings, *at_work))
    recorder.energy += energies
    names, more = [task.name for task in tasks.plain], command_with(command, config, samples=P99_CALLS)
    precision, imprecise = precision_figures(config, plain)
    recorder.warnings += [*done.warnings, *imprecise]
    recorder.notes += [*tasks.notes, *few_calls(names, plain, more), *unweighed]
    recorder.results.update(results_of(tasks, done.latencies, parts_ms=done.parts_ms, around=done.around))
    recorder.results.update(precision=precision, verdict=done.verdict)


def _latency_from(task: Task, measured: Measured, session: str) -> Latency:
    return Latency(
        samples_ms=measured.samples_ms,
        batch=measured.job.batch,
        runtime=measured.ready.runtime,
        threads=measured.job.threads,
        session=session,
        artifact=task.model.sha256,
        warmup=measured.ready.warmup,
        machine=environment().machine,
        note=_QDQ_NOTE if is_for_tensorrt(task.model) else "",
        rounds=tuple(len(samples) for samples in measured.rounds),
    )
