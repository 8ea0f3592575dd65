"""What a session's samples say: the figures that go into a bench report's results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgeres.bench.config import BenchConfig
from edgeres.bench.doubts import BUSY_SHARE, Around
from edgeres.bench.endtoend import Parts, figures_of
from edgeres.bench.steady import level_of, outliers_in
from edgeres.bench.tasks import Task, Tasks
from edgeres.bench.watch import fallen_clock
from edgeres.core.environment import affinity, available_cores, governor
from edgeres.core.metrics import Latency
from edgeres.core.statistics import P99_CALLS, calls_needed, percentile_interval, rate_interval, spread_ms

PERCENTILES = (50, 90, 95, 99)


def results_of(
    tasks: Tasks, latencies: Sequence[Latency], *, parts_ms: Sequence[tuple[Parts, ...]], around: Around
) -> dict[str, Any]:
    """Everything but the verdict and the precision; `latencies` and `parts_ms` belong to `tasks.all`."""
    plain, batched = len(tasks.plain), len(tasks.plain) + len(tasks.batched)
    rows = list(zip(tasks.all, latencies, parts_ms, strict=True))
    return {
        "session": latencies[0].session,
        "rounds": len(latencies[0].rounds),
        "busy_cores": around.busy_cores,
        "models": [_of_model(task, latency) for task, latency, _ in rows[:plain]],
        "throughput": _throughput(rows[:batched], tasks),
        "end_to_end": _end_to_end(rows[batched:], tasks),
        "around": _of_machine(around),
    }


def percentiles_of(latency: Latency) -> dict[str, Any]:
    """`p50_ms` and so on, each an interval, or None where its calls are too few for one."""
    n = len(latency.samples_ms)
    return {
        f"p{q}_ms": percentile_interval(latency, q).model_dump()
        if n >= calls_needed(q) or q == PERCENTILES[0]
        else None
        for q in PERCENTILES
    }


def few_calls(names: Sequence[str], latencies: Sequence[Latency]) -> list[str]:
    """Which models have no p99, and what to do; one note for all."""
    short = {name: len(one.samples_ms) for name, one in zip(names, latencies, strict=True)}
    short = {name: n for name, n in short.items() if n < P99_CALLS}
    if not short:
        return []
    had = ", ".join(f"{name} {n}" for name, n in short.items())
    return [f"p99 takes {P99_CALLS} calls, had: {had}; edgeres bench --samples {P99_CALLS}"]


def precision_figures(config: BenchConfig, latencies: Sequence[Latency]) -> dict[str, Any] | None:
    """How well the medians are known against what was asked for; None if nothing was."""
    if config.precision_share is None:
        return None
    worst = max(percentile_interval(latency, 50).precision for latency in latencies)
    return {"asked": config.precision_share, "worst": worst, "reached": worst <= config.precision_share}


def precision_warning(figures: dict[str, Any] | None, config: BenchConfig) -> list[str]:
    """A warning if the precision was not reached."""
    if figures is None or figures["reached"]:
        return []
    text = (
        f"precision {config.precision} was not reached in {config.max_seconds:g} s: the medians are known to"
        f" {100 * figures['worst']:.1f} %; stop other programs, or allow more: --max-seconds {4 * config.max_seconds:g}"
    )
    return [text]


def _of_model(task: Task, latency: Latency) -> dict[str, Any]:
    level, stray = level_of(latency), outliers_in(latency)
    return {
        **_head(task, latency),
        **percentiles_of(latency),
        "images_per_s": rate_interval(latency).model_dump(),
        "precision": percentile_interval(latency, 50).precision,
        "spread_ms": spread_ms(latency),
        "samples": len(latency.samples_ms),
        "outliers": {**stray.model_dump(), "share": stray.share},
        "level": {**level.model_dump(), "is_steady": level.is_steady} if level else None,
    }


def _head(task: Task, latency: Latency) -> dict[str, Any]:
    return {
        "path": str(task.model.path),
        "artifact": task.model.sha256,
        **latency.model_dump(include={"batch", "runtime", "threads", "note"}),
    }


def _throughput(rows: Sequence[tuple[Task, Latency, Any]], tasks: Tasks) -> list[dict[str, Any]]:
    """Every batch of every model, by model and batch; nothing unless other batches were asked for."""
    if not tasks.batched:
        return []
    order = {task.model.sha256: place for place, task in enumerate(tasks.plain)}
    rows = sorted(rows, key=lambda row: (order[row[0].model.sha256], row[1].batch))
    return [
        {
            **_head(task, latency),
            "p50_ms": percentile_interval(latency, 50).model_dump(),
            "images_per_s": rate_interval(latency).model_dump(),
            "samples": len(latency.samples_ms),
            "samples_ms": list(latency.samples_ms),
            "rounds": list(latency.rounds),
        }
        for task, latency, _ in rows
    ]


def _end_to_end(rows: Sequence[tuple[Task, Latency, tuple[Parts, ...]]], tasks: Tasks) -> dict[str, Any]:
    if not rows:
        return {"not_timed": tasks.not_end_to_end}
    return {
        "files": len(tasks.end_to_end[0].job.files),
        "models": [{**_head(task, latency), **figures_of(latency, parts)} for task, latency, parts in rows],
    }


def _of_machine(around: Around) -> dict[str, Any]:
    clocks = [reading.clock_mhz for reading in around.readings if reading.clock_mhz is not None]
    return {
        "cores": available_cores(),
        "affinity": list(affinity()),
        "governor": governor(),
        "clock_mhz": {"first": clocks[0], "last": clocks[-1], "fell": fallen_clock(around.readings) is not None}
        if clocks
        else None,
        "other_cores": {
            "before": around.before,
            "after": around.after,
            "during": around.neighbours.model_dump() if around.neighbours else None,
            "limit": BUSY_SHARE * available_cores(),
        },
        "readings": [reading.model_dump() for reading in around.readings],
    }
