"""What a session's samples say: the figures that go into a bench report's results, and these as lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edgeres.bench.config import BenchConfig
from edgeres.bench.endtoend import Parts, figures_of
from edgeres.bench.tasks import Task, Tasks, label_of
from edgeres.bench.validity import BUSY_SHARE, Around, level_of, outliers_in
from edgeres.bench.watch import fallen_clock
from edgeres.core.amounts import counted
from edgeres.core.environment import affinity, available_cores, governor
from edgeres.core.metrics import Interval, Latency
from edgeres.core.stage import StageReport
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


def few_calls(names: Sequence[str], latencies: Sequence[Latency], command: str) -> list[str]:
    """Which models have no p99, and the `command` that gives them one; one note for all."""
    short = {name: len(one.samples_ms) for name, one in zip(names, latencies, strict=True)}
    short = {name: n for name, n in short.items() if n < P99_CALLS}
    if not short:
        return []
    had = ", ".join(f"{name} {n}" for name, n in short.items())
    return [f"p99 takes {P99_CALLS} calls, had: {had}; {command}"]


def precision_figures(config: BenchConfig, latencies: Sequence[Latency]) -> tuple[dict[str, Any] | None, list[str]]:
    """(how well the medians are known against what was asked for, a warning if not so well); None if nothing was."""
    if config.precision_share is None:
        return None, []
    worst = max(percentile_interval(latency, 50).precision for latency in latencies)
    figures = {"asked": config.precision_share, "worst": worst, "reached": worst <= config.precision_share}
    warning = (
        f"precision {config.precision} was not reached in {config.max_seconds:g} s: the medians are known to"
        f" {100 * worst:.1f} %; allow more: --max-seconds {4 * config.max_seconds:g}"
    )
    return figures, [] if figures["reached"] else [warning]


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


def lines_from(report: StageReport) -> list[str]:
    """Everything a person wants to see; nothing of a model that was skipped."""
    results = report.results
    if "models" not in results:
        return []
    return [
        *(line for row in results["models"] for line in _model_lines(row)),
        *_throughput_lines(results["throughput"]),
        *_end_to_end_lines(results["end_to_end"]),
        *_machine_lines(results, report),
    ]


def _model_lines(row: dict[str, Any]) -> Iterator[str]:
    conditions = f"batch {row['batch']}, {counted(row['threads'], 'thread')}, {row['runtime']}"
    yield f"{label_of(Path(row['path']))}  {conditions}, n = {row['samples']:,}"
    if row["note"]:
        yield f"  {row['note']}"
    for q in PERCENTILES:
        found = row[f"p{q}_ms"]
        yield f"  p{q} {_ms(found) if found else f'takes {calls_needed(q)} calls: --samples {calls_needed(q)}'}"
    yield f"  {_rate(row['images_per_s'])} images/s, median known to {100 * row['precision']:.1f} %"
    steady = "too few rounds to tell whether the speed was steady"
    if level := row["level"]:
        word = "steady" if level["is_steady"] else "NOT steady"
        steady = f"speed {word} over {level['rounds']} rounds (Pettitt's test: p = {level['p_value']:.2g})"
    yield f"  outliers {100 * row['outliers']['share']:.1f} % of the calls (kept); {steady}"


def _ms(found: dict[str, float]) -> str:
    return f"{found['value']:.3f} ms ({Interval(**found).bounds()})"


def _rate(found: dict[str, float]) -> str:
    return f"{found['value']:,.1f} ({Interval(**found).bounds(',.1f')})"


def _throughput_lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    if not rows:
        return
    names = [label_of(Path(row["path"])) for row in rows]
    width = max(map(len, [*names, "throughput"]))
    yield f"{'throughput':<{width}}  {'batch':>5}  {'ms a call':>10}  images/s"
    for name, row in zip(names, rows, strict=True):
        yield f"{name:<{width}}  {row['batch']:>5}  {row['p50_ms']['value']:>10.3f}  {_rate(row['images_per_s'])}"


def _end_to_end_lines(found: dict[str, Any]) -> Iterator[str]:
    if "not_timed" in found:
        yield f"end to end: not timed, {found['not_timed']}"
        return
    yield f"end to end, one image after the other ({found['files']} files, from the page cache; Pillow, one thread)"
    for row in found["models"]:
        rate = f"{row['images_per_s']['value']:,.1f} images/s"
        yield f"  {label_of(Path(row['path']))}: {_ms(row['p50_ms'])}, {rate}, n = {row['samples']:,}"
        yield "    " + ", ".join(
            f"{part} {milliseconds:.3f} ms {100 * row['shares'][part]:.0f} %"
            for part, milliseconds in row["parts_ms"].items()
        )


def _machine_lines(results: dict[str, Any], report: StageReport) -> Iterator[str]:
    around = results["around"]
    during, clock = around["other_cores"]["during"], around["clock_mhz"]
    other = f"other programs {during['mean_cores']:.2f} cores on average" if during else "other programs unknown"
    shown = f"clock {clock['first']:,.0f} to {clock['last']:,.0f} MHz" if clock else "clock not readable here"
    governor = f"governor {around['governor']}" if around["governor"] else "governor not readable here"
    cores = ",".join(map(str, around["affinity"]))
    yield f"{report.environment.machine} (cores {cores}): {other}, {shown}, {governor}"
    if precision := results["precision"]:
        word = "reached" if precision["reached"] else "NOT reached"
        rounds = results["rounds"]
        yield f"precision {precision['asked']:.2g} {word}: {100 * precision['worst']:.2f} % after {rounds} rounds"
    yield f"verdict: {results['verdict']}"
