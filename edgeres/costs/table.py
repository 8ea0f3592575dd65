"""The latency table: what every module costs on one runtime, and what it predicts for any set of them.

    predicted(S) = whole_ms - sum of saved_ms of the modules in S
    variance     = c' C c + (fit_error predicted(S))^2       c: counts of S, C: covariance

The second term is what one more network, in a process of its own, differs from the sum: the interval is where a
measurement of S is to be expected in the same session. Of a profile, whose layers were scaled to add up to the whole
network, it is (fit_error saved(S))^2: the whole was measured, what is saved is as uncertain as that scale. Between
sessions a machine's speed drifts as a whole, so across sessions only ratios to the whole network are predicted.

A latency depends on shapes, not on weights: the table serves every network of its spec, trained further or not, and
whatever is cut from it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeres.core.artifacts import LatencyTableFile, Model
from edgeres.core.environment import environment
from edgeres.core.errors import InputError
from edgeres.core.files import write_text
from edgeres.core.metrics import Interval, Latency
from edgeres.core.records.latency import LATENCY_NAME, LatencyConfig, LatencyTable, ModuleCost
from edgeres.core.spec import ModelSpec
from edgeres.core.stage import Recorder, StageResult
from edgeres.core.statistics import percentile_interval, t_95
from edgeres.costs.design import Classes, Fit, row_of, shape_classes
from edgeres.models import modules_of

AGAIN = "edgeres bench --per-module MODEL.safetensors"
_WIDE_FIT = 0.03  # relative; on an undisturbed CPU it stays near 0.01, the luck of a process start


def classes_to_time(source: Model) -> Classes:
    """Shape -> modules, as `shape_classes`; raises InputError if no module is left."""
    if classes := shape_classes(source.spec):
        return classes
    raise InputError(f"{source.path}: {source.spec.variant} has no module left to time")


def table_from(
    source: Model,
    conditions: LatencyConfig,
    fit: Fit,
    *,
    whole: Latency,
    classes: Classes,
    alone: Mapping[str, Interval] | None = None,
) -> LatencyTable:
    """The table of `source` with its latency `whole`; `fit` has a figure for each of `classes`, `alone` for modules."""
    shape_of = {name: shape for shape, names in classes.items() for name in names}
    saved = {shape: fit.interval(place) for place, shape in enumerate(classes, start=1)}
    costs = tuple(
        ModuleCost(module=name, kind=info.kind, shape=shape, saved_ms=saved[shape], alone_ms=(alone or {}).get(name))
        for info in modules_of(source.spec)
        if (shape := shape_of.get(name := info.name))
    )
    return LatencyTable(
        model_sha256=source.sha256,
        model_name=source.path.name,
        spec=source.spec,
        conditions=conditions,
        runtime=whole.runtime,
        machine=whole.machine,
        session=whole.session,
        whole_ms=fit.interval(0),
        measured_ms=percentile_interval(whole, 50),
        rest_ms=float(fit.coefficients[0]) - sum(cost.saved_ms.value for cost in costs),
        shapes=tuple(classes),
        table=costs,
        covariance=tuple(tuple(map(float, row)) for row in fit.covariance),
        fit_error=fit.error,
        degrees=fit.degrees,
    )


def written(table: LatencyTable, recorder: Recorder, out_dir: Path) -> StageResult[LatencyTableFile]:
    """The stage's result: out_dir/latency.json, its figures for the report, and a line for each shape."""
    output = LatencyTableFile(out_dir / LATENCY_NAME)
    write_text(output.path, table.model_dump_json(indent=1) + "\n")
    recorder.results = summary_of(table) | recorder.results
    recorder.notes[:0] = table.lines()
    return StageResult(output, recorder.finish(output))


def predicted_ms(table: LatencyTable, dropped: Sequence[str]) -> Interval:
    """Where the latency without `dropped` is to be measured; raises InputError if the table lacks one of them."""
    new = _known(table, dropped)
    row = np.array(row_of(table.classes, new))
    saved = sum(table.saved_ms[name] for name in new)
    value = table.whole_ms.value - saved
    doubtful = saved if table.method == "profile" else value
    variance = row @ np.array(table.covariance) @ row + (table.fit_error * doubtful) ** 2
    half = t_95(table.degrees) * math.sqrt(variance)
    return Interval(value=value, low=max(value - half, min(value, 0.0)), high=value + half)


def check_table(table: LatencyTable, spec: ModelSpec) -> None:
    """Raises InputError unless `spec` is the table's network, perhaps with more modules dropped."""
    if other := table.other_than(spec):
        raise InputError(f"the latency table is of another network: {other}; measure this one: {again(table)}")
    _known(table, spec.dropped)
    if back := sorted(set(table.spec.dropped) - set(spec.dropped)):
        without = ", ".join(back)
        raise InputError(f"the latency table was measured without {without}; measure this network: {again(table)}")


def again(table: LatencyTable) -> str:
    """The command that measures another network as this table was."""
    return f"{AGAIN} --on {table.machine.partition(':')[0]}" if table.is_of_board else AGAIN


def doubts(table: LatencyTable, *, then: str = "") -> list[str]:
    """What speaks against relying on the table here, each with what to do; or with `then`, where no table is taken."""
    found = []
    if not table.is_of_board and (here := environment().machine) != table.machine:
        found.append(
            f"the latency table was measured on {table.machine}, this is {here}; {then or f'measure here: {AGAIN}'}"
        )
    if abs(table.fit_error) > _WIDE_FIT:
        found.append(f"the latency table is uncertain: {_why_uncertain(table, then)}")
    return found


def _why_uncertain(table: LatencyTable, then: str) -> str:
    if table.method == "profile":
        then = then or f"time shortened networks: {AGAIN} --on BOARD"
        return f"the layers of the profile add up to {table.misfit} than the network takes; {then}"
    where = " --on BOARD" if table.is_of_board else " --seconds 20"
    return f"networks differ from the sum of their modules by {table.misfit}; {then or f'time longer: {AGAIN}{where}'}"


def summary_of(table: LatencyTable) -> dict[str, Any]:
    """The table's figures for a report."""
    return {
        "whole_ms": table.whole_ms.model_dump(),
        "measured_ms": table.measured_ms.model_dump(),
        "rest_ms": table.rest_ms,
        "fit_error": table.fit_error,
        "networks": len(table.timed),
        "session": table.session,
        "modules": [row.model_dump(mode="json") for row in table.table],
    }


def _known(table: LatencyTable, dropped: Sequence[str]) -> list[str]:
    """Those of `dropped` that the table's network has; raises InputError for names it cannot tell the cost of."""
    new = sorted(set(dropped) - set(table.spec.dropped))
    if unknown := [name for name in new if name not in table.saved_ms]:
        raise InputError(f"the latency table knows no module {', '.join(unknown)}; measure again: {again(table)}")
    return new
