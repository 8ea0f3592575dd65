"""A bench report as lines of text: what each model does, at which batch, from file to class, and on what machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgeres.bench.figures import PERCENTILES
from edgeres.bench.tasks import label_of
from edgeres.core.metrics import Interval
from edgeres.core.stage import StageReport
from edgeres.core.statistics import calls_needed


def lines_from(report: StageReport) -> list[str]:
    """Everything a person wants to see; a report of an earlier version, which holds less, gives less."""
    results = report.results
    return [
        *(line for row in results.get("models", []) for line in _model(row)),
        *_throughput(results.get("throughput", [])),
        *_end_to_end(results.get("end_to_end")),
        *_machine(results, report),
    ]


def _model(row: dict[str, Any]) -> Iterator[str]:
    conditions = ""
    if "batch" in row:
        threads = f"{row['threads']} thread{'' if row['threads'] == 1 else 's'}"
        conditions = f"batch {row['batch']}, {threads}, {row['runtime']}, "
    yield f"{label_of(Path(row['path']))}  {conditions}n = {row['samples']:,}"
    if note := row.get("note"):
        yield f"  {note}"
    for q in PERCENTILES:
        if found := row.get(f"p{q}_ms"):
            yield f"  p{q} {_ms(found)}"
        elif f"p{q}_ms" in row:
            yield f"  p{q} takes {calls_needed(q)} calls: --samples {calls_needed(q)}"
    if rate := row.get("images_per_s"):
        yield f"  {_rate(rate)} images/s, median known to {100 * row['precision']:.1f} %"
    if stray := row.get("outliers"):
        steady = "too few rounds to tell whether the speed was steady"
        if level := row.get("level"):
            word = "steady" if level["is_steady"] else "NOT steady"
            steady = f"speed {word} over {level['rounds']} rounds (Pettitt's test: p = {level['p_value']:.2g})"
        yield f"  outliers {100 * stray['share']:.1f} % of the calls (kept); {steady}"


def _ms(found: dict[str, float]) -> str:
    return f"{found['value']:.3f} ms ({Interval(**found).bounds()})"


def _rate(found: dict[str, float]) -> str:
    return f"{found['value']:,.1f} ({Interval(**found).bounds(',.1f')})"


def _throughput(rows: list[dict[str, Any]]) -> Iterator[str]:
    if not rows:
        return
    names = [label_of(Path(row["path"])) for row in rows]
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
        rate = f"{row['images_per_s']['value']:,.1f} images/s"
        yield f"  {label_of(Path(row['path']))}: {_ms(row['p50_ms'])}, {rate}, n = {row['samples']:,}"
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
