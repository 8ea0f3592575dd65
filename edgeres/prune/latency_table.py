"""The latency table: what every module costs on one runtime, and what it predicts for any set of them.

    predicted(S) = whole_ms - sum of saved_ms of the modules in S
    variance     = c' C c + (fit_error predicted(S))^2       c: counts of S, C: covariance

The second term is what one more network, in a process of its own, differs from the sum: the interval is where a
measurement of S is to be expected in the same session. Between sessions a machine's speed drifts as a whole, so across
sessions only ratios to the whole network are predicted.

A latency depends on shapes, not on weights: the table serves every network of its spec, trained further or not, and
whatever is cut from it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from edgeres.bench.stage import BenchConfig
from edgeres.core.config import Config, Record, record_from_json
from edgeres.core.environment import default_threads, environment
from edgeres.core.errors import InputError
from edgeres.core.metrics import Latency
from edgeres.core.spec import ModelSpec
from edgeres.core.statistics import Interval
from edgeres.prune.latency_design import interval_around, round_medians, row_of

AGAIN = "edgeres bench --per-module"
_WIDE_FIT = 0.03  # relative; on an undisturbed CPU it stays near 0.01, the luck of a process start


class LatencyConfig(Config):
    """How to find out what each module costs."""

    batch: int = Field(1, ge=1, description="images per call")
    threads: int | None = Field(None, ge=1, description="CPU threads; OMP_NUM_THREADS or else all cores if not given")
    rounds: int = Field(20, ge=5, description="turns of each network, interleaved")
    seconds: float = Field(4.0, gt=0, description="time for each network, all rounds together")
    seed: int = Field(0, ge=0, description="of the networks' modules, the input images and the order of turns")
    runtime: Literal["ort", "torch", "tensorrt"] = Field(
        "ort", description="what executes the networks; tensorrt: on a board"
    )
    precision: Literal["fp32", "int8"] = Field("fp32", description="int8 times Q/DQ graphs")
    networks: int | None = Field(None, ge=2, description="shortened networks to time; default: by number of shapes")
    every_module: bool = Field(False, description="also time the network without each single module")

    def check(self, *, on_board: bool = False) -> None:
        """A Q/DQ graph needs ONNX Runtime, TensorRT a board."""
        if self.runtime == "tensorrt" and not on_board:
            raise InputError("--runtime tensorrt times networks on a board: edgeres bench --per-module --on BOARD")
        if self.precision == "int8" and self.runtime == "torch":
            raise InputError("--precision int8 times Q/DQ graphs, which torch does not execute; use --runtime ort")

    def as_bench(self) -> BenchConfig:
        """The session's own options, the number of threads settled."""
        return BenchConfig.model_validate(
            {
                "batch": self.batch,
                "threads": self.threads or default_threads(),
                "rounds": self.rounds,
                "seconds": self.seconds,
                "include_qdq": True,
                "seed": self.seed,
            }
        )


class ModuleCost(Record):
    """What dropping one module saves: its class's figure, and its own where it was timed alone."""

    module: str
    kind: str
    shape: str
    saved_ms: Interval
    alone_ms: Interval | None = None


class Timed(Record):
    """One network of the session: what it lacks and the median of each of its rounds."""

    dropped: tuple[str, ...]
    rounds_ms: tuple[float, ...]

    @classmethod
    def of(cls, dropped: Sequence[str], latency: Latency) -> Timed:
        """The record of a latency."""
        return cls(dropped=tuple(sorted(dropped)), rounds_ms=tuple(map(float, round_medians(latency))))


class LatencyTable(Record):
    """Content of latency.json; `model_sha256` and `spec` are of the checkpoint that was measured.

    `covariance` in ms^2 belongs to (whole_ms, saved_ms of each of `shapes`); `fit_error` is relative. `measured_ms` is
    the whole network's median itself, `rest_ms` what no module accounts for: stem, head and overhead.

    `method`: from shortened networks, or from the layer profile of one engine of `engine_precision`. `model_name` is
    the file's, empty in a table of an earlier version.
    """

    kind: Literal["latencies"] = "latencies"
    schema_version: int = 1
    model_sha256: str
    model_name: str = ""
    spec: ModelSpec
    conditions: LatencyConfig
    runtime: str
    machine: str
    session: str
    method: Literal["networks", "profile"] = "networks"
    engine_precision: str | None = None
    whole_ms: Interval
    measured_ms: Interval
    rest_ms: float
    shapes: tuple[str, ...]
    table: tuple[ModuleCost, ...]
    covariance: tuple[tuple[float, ...], ...]
    fit_error: float
    degrees: int
    timed: tuple[Timed, ...] = ()

    @property
    def is_of_board(self) -> bool:
        """Whether it was measured on a board, which nothing here can check."""
        return self.conditions.runtime == "tensorrt"

    @property
    def precision(self) -> str:
        """Of the graphs that were timed: `INT8`, `FP32`, `INT8+FP16`."""
        return (self.engine_precision or self.conditions.precision).upper()

    @property
    def is_int8(self) -> bool:
        """Whether INT8 graphs were timed."""
        return "INT8" in self.precision

    @property
    def title(self) -> str:
        """`table of model.int8.onnx on desk`."""
        where = self.machine.partition(":")[0] if self.is_of_board else self.runtime
        return f"table of {self.model_name or 'a network'} on {where}"

    @property
    def classes(self) -> dict[str, tuple[str, ...]]:
        """Shape -> modules."""
        return {shape: tuple(row.module for row in self.table if row.shape == shape) for shape in self.shapes}

    @property
    def saved_ms(self) -> dict[str, float]:
        """Module -> milliseconds that dropping it saves."""
        return {row.module: row.saved_ms.value for row in self.table}


def latency_table_from(path: Path) -> LatencyTable:
    """The table in latency.json; raises InputError if it is damaged or something else."""
    return record_from_json(LatencyTable, path)


def predicted_ms(table: LatencyTable, dropped: Sequence[str]) -> Interval:
    """Where the latency without `dropped` is to be measured; raises InputError if the table lacks one of them."""
    new = _known(table, dropped)
    row = np.array(row_of(table.classes, new))
    value = table.whole_ms.value - sum(table.saved_ms[name] for name in new)
    variance = row @ np.array(table.covariance) @ row + (table.fit_error * value) ** 2
    return interval_around(value, math.sqrt(variance), table.degrees)


def check_table(table: LatencyTable, spec: ModelSpec) -> None:
    """Raises InputError unless `spec` is the table's network, perhaps with more modules dropped."""
    shared = ("family", "variant", "num_classes", "input_shape", "options")
    for name in shared:
        seen, wanted = getattr(table.spec, name), getattr(spec, name)
        if seen != wanted:
            raise InputError(
                f"the latency table is of another network: {name} {seen}, here {wanted}; measure this one: {AGAIN}"
            )
    _known(table, spec.dropped)
    if back := sorted(set(table.spec.dropped) - set(spec.dropped)):
        raise InputError(f"the latency table was measured without {', '.join(back)}; measure this network: {AGAIN}")


def doubts(table: LatencyTable) -> list[str]:
    """What speaks against relying on the table here, each with what to do."""
    found = []
    if not table.is_of_board and (here := environment().machine) != table.machine:
        found.append(f"the latency table was measured on {table.machine}, this is {here}; measure here: {AGAIN}")
    if table.fit_error > _WIDE_FIT:
        found.append(f"the latency table is uncertain: {_why_uncertain(table)}")
    return found


def _why_uncertain(table: LatencyTable) -> str:
    percent = f"{100 * table.fit_error:.1f} %"
    if table.method == "profile":
        return (
            f"the layers of the profile add up to {percent} more or less than the network takes; time shortened"
            f" networks: {AGAIN} --on BOARD MODEL.safetensors"
        )
    where = " --on BOARD" if table.is_of_board else " --seconds 20"
    return (
        f"networks differ from the sum of their modules by {percent}; stop other programs or time longer:"
        f" {AGAIN}{where}"
    )


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


def lines_of(table: LatencyTable) -> list[str]:
    """One line for each shape, and what no module accounts for."""
    lines = []
    for shape, names in table.classes.items():
        saved = next(row.saved_ms for row in table.table if row.shape == shape)
        who = names[0] if len(names) == 1 else f"each of {', '.join(names)}"
        lines.append(f"{who} ({shape}): {saved.value:.4f} ms (95 %: {saved.low:.4f} to {saved.high:.4f})")
    share = 100 * table.rest_ms / table.whole_ms.value
    total = (
        f"whole {table.whole_ms.value:.3f} ms, of which {table.rest_ms:.3f} ms ({share:.0f} %) are stem, head and"
        f" overhead; batch {table.conditions.batch}, {_how(table)}"
    )
    return [*lines, total]


def _how(table: LatencyTable) -> str:
    percent = f"{100 * table.fit_error:.1f} %"
    if table.method == "profile":
        return (
            f"{table.runtime} {table.engine_precision} on {table.machine}, by the layer profile, scaled to the measured"
            f" median (its layers add up to {percent} more or less)"
        )
    where = f"on {table.machine}" if table.is_of_board else f"{table.conditions.threads} threads"
    how = "one after the other" if table.is_of_board else "in one session"
    return f"{table.runtime}, {where}, {len(table.timed)} networks {how}, which differ from the sum by {percent}"


def _known(table: LatencyTable, dropped: Sequence[str]) -> list[str]:
    """Those of `dropped` that the table's network has; raises InputError for names it cannot tell the cost of."""
    new = sorted(set(dropped) - set(table.spec.dropped))
    if unknown := [name for name in new if name not in table.saved_ms]:
        raise InputError(f"the latency table knows no module {', '.join(unknown)}; measure again: {AGAIN}")
    return new
