"""A bench report as lines of text: what each model does, at which batch, from file to class, and on what machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgeres.bench.figures import PERCENTILES
from edgeres.bench.tasks import label_of
from edgeres.core.stage import StageReport
from edgeres.core.statistics import calls_needed


def lines_from(report: StageReport) -> list[str]:
    """Everything a person wants to see; a report of an earlier version, which holds less, gives less."""
    results = report.results
    lines = [line for row in results.get("models", []) for line in _model(row)]
    lines += list(_throughput(results.get("throughput", [])))
    lines += list(_end_to_end(results.get("end_to_end")))
    lines += list(_machine(results, report))
    return lines


def _model(row: dict[str, Any]) -> Iterator[str]:
    conditions = f"batch {row['batch']}, {_threads(row['threads'])}, {row['runtime']}, " if "batch" in row else ""
    yield f"{_label(row['path'])}  {conditions}n = {row['samples']:,}"
    if note := row.get("note"):
        yield f"  {note}"
    for q in PERCENTILES:
        if f"p{q}_ms" in row:
            yield f"  p{q} {_percentile(row, q)}"
    if rate := row.get("images_per_s"):
        yield f"  {_rate(rate)} images/s, median known to {100 * row['precision']:.1f} %"
    if stray := row.get("outliers"):
        level = row.get("level")
        steady = _steady(level) if level else "too few rounds to tell whether the speed was steady"
        yield f"  outliers {100 * stray['share']:.1f} % of the calls (kept); {steady}"


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _label(path: str) -> str:
    return label_of(Path(path))


def _percentile(row: dict[str, Any], q: int) -> str:
    found = row[f"p{q}_ms"]
    if found is None:
        return f"takes {calls_needed(q)} calls: --samples {calls_needed(q)}"
    return f"{found['value']:.3f} ms (95 %: {found['low']:.3f} to {found['high']:.3f})"


def _rate(rate: dict[str, float]) -> str:
    return f"{rate['value']:,.1f} (95 %: {rate['low']:,.1f} to {rate['high']:,.1f})"


def _steady(level: dict[str, Any]) -> str:
    word = "steady" if level["is_steady"] else "NOT steady"
    return f"speed {word} over {level['rounds']} rounds (Pettitt's test: p = {level['p_value']:.2g})"


def _throughput(rows: list[dict[str, Any]]) -> Iterator[str]:
    if not rows:
        return
    names = [_label(row["path"]) for row in rows]
    width = max(map(len, [*names, "throughput"]))
    yield f"{'throughput':<{width}}  {'batch':>5}  {'ms a call':>10}  images/s"
    for name, row in zip(names, rows, strict=True):
        yield f"{name:<{width}}  {row['batch']:>5}  {row['p50_ms']['value']:>10.3f}  {_rate(row['images_per_s'])}"


def _end_to_end(found: dict[str, Any] | None) -> Iterator[str]:
    if found is None:
        return
    if "not_timed" in found:
        yield f"end to end: not timed, {found['not_timed']}"
        return
    yield f"end to end, one image after the other ({found['files']} files, from the page cache; Pillow, one thread)"
    for row in found["models"]:
        p50 = row["p50_ms"]
        yield (
            f"  {_label(row['path'])}: {p50['value']:.3f} ms (95 %: {p50['low']:.3f} to {p50['high']:.3f}),"
            f" {row['images_per_s']['value']:,.1f} images/s, n = {row['samples']:,}"
        )
        yield "    " + ", ".join(
            f"{part} {milliseconds:.3f} ms {100 * row['shares'][part]:.0f} %"
            for part, milliseconds in row["parts_ms"].items()
        )


def _machine(results: dict[str, Any], report: StageReport) -> Iterator[str]:
    if around := results.get("around"):
        during = around["other_cores"]["during"]
        other = f"other programs {during['mean_cores']:.2f} cores on average" if during else "other programs unknown"
        clock = around["clock_mhz"]
        shown = f"clock {clock['first']:,.0f} to {clock['last']:,.0f} MHz" if clock else "clock not readable here"
        governor = f"governor {around['governor']}" if around["governor"] else "governor not readable here"
        cores = ",".join(map(str, around["affinity"]))
        yield f"{report.environment.machine} (cores {cores}): {other}, {shown}, {governor}"
    if precision := results.get("precision"):
        word = "reached" if precision["reached"] else "NOT reached"
        rounds = results["rounds"]
        yield f"precision {precision['asked']:.2g} {word}: {100 * precision['worst']:.2f} % after {rounds} rounds"
    if verdict := results.get("verdict"):
        yield f"verdict: {verdict}"
