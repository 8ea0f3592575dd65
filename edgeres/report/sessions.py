"""What a bench session says beyond the latency of one call: its verdict, throughput by batch, the way end to end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field

from edgeres.core.statistics import Interval
from edgeres.report.folder import Figure, FinishedStage, RunFolder, figure_from

INVALID = "invalid"


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


def verdicts_of(folder: RunFolder) -> dict[str, str]:
    """What each session that is not valid says against itself, by its id."""
    found = {}
    for stage in folder.stages:
        session, verdict = (stage.report.results.get(name) for name in ("session", "verdict"))
        if isinstance(session, str) and isinstance(verdict, str) and verdict.startswith(INVALID):
            found[session] = verdict
    return found


def ways_in(folder: RunFolder) -> tuple[tuple[TimedWay, ...], tuple[str, ...]]:
    """Throughput and end to end of the last bench, and what could not be read."""
    stage = folder.newest("bench")
    if stage is None:
        return (), ()
    found = list(_ways(stage, folder))
    if None in found:
        return (), (f"{stage.name}: its throughput cannot be read; measure again: edgeres bench",)
    return tuple(one for one in found if one), ()


def _ways(stage: FinishedStage, folder: RunFolder) -> Iterator[TimedWay | None]:
    results = stage.report.results
    whole = results.get("end_to_end")
    for way, rows in (
        ("inference", results.get("throughput")),
        ("end to end", whole.get("models") if isinstance(whole, dict) else None),
    ):
        for row in rows if isinstance(rows, list) else ():
            yield figure_from(
                TimedWay, {**row, "name": _name(row, folder), "way": way} if isinstance(row, dict) else row
            )


def _name(row: dict[str, Any], folder: RunFolder) -> str:
    made = (
        one.name for one in folder.networks if one.report.output and one.report.output.sha256 == row.get("artifact")
    )
    return next(made, Path(str(row.get("path", "unknown"))).name)
