"""The latency table: what every module of a network costs on one runtime."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

from pydantic import Field

from edgeres.core.config import Config, Record, record_from_json
from edgeres.core.errors import InputError
from edgeres.core.metrics import Interval
from edgeres.core.spec import ModelSpec
from edgeres.core.statistics import t_95

LATENCY_NAME = "latency.json"
_OF_NETWORK = ("family", "variant", "num_classes", "input_shape", "options", "structure")  # what a latency depends on


class SessionConfig(Config):
    """How models take turns, and the time they get."""

    batch: int = Field(1, ge=1, description="images per call, where the model leaves it open")
    threads: int | None = Field(None, ge=1, description="CPU threads; OMP_NUM_THREADS or else all cores if not given")
    rounds: int = Field(20, ge=5, description="turns of each model, interleaved")
    seconds: float = Field(4.0, gt=0, description="time for each model, all rounds together")
    seed: int = Field(0, ge=0, description="of the input images and the order of turns")


class LatencyConfig(SessionConfig):
    """How to find out what each module costs."""

    seed: int = Field(0, ge=0, description="of the networks' modules, the input images and the order of turns")
    runtime: Literal["ort", "torch", "tensorrt"] = Field(
        "ort", description="what executes the networks; tensorrt: on a board"
    )
    precision: Literal["fp32", "int8"] = Field(
        "fp32", description="int8 times Q/DQ graphs, as who runs them wants them"
    )
    networks: int | None = Field(None, ge=2, description="shortened networks to time; default: by number of shapes")

    def check(self, *, on_board: bool = False) -> None:
        """A Q/DQ graph needs ONNX Runtime, TensorRT a board."""
        if self.runtime == "tensorrt" and not on_board:
            raise InputError("--runtime tensorrt times networks on a board: edgeres bench --per-module --on BOARD")
        if self.precision == "int8" and self.runtime == "torch":
            raise InputError("--precision int8 times Q/DQ graphs, which torch does not execute; use --runtime ort")


class ModuleCost(Record):
    """What dropping one module saves: its class's figure, and its own where a profile tells it."""

    module: str
    kind: str
    shape: str
    saved_ms: Interval
    alone_ms: Interval | None = None


class Timed(Record):
    """One network of the session: what it lacks and the median of each of its rounds."""

    dropped: tuple[str, ...]
    rounds_ms: tuple[float, ...]


class LatencyTable(Record):
    """Content of latency.json; `model_sha256` and `spec` are of the checkpoint that was measured.

    `covariance` in ms^2 belongs to (whole_ms, saved_ms of each of `shapes`); `fit_error` is relative, below 0 where the
    layers of a profile add up to less than the network takes. `measured_ms` is
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

    def other_than(self, spec: ModelSpec) -> str:
        """By what its network is another than that of `spec`, whatever either has lost; empty if it is not."""
        for name in _OF_NETWORK:
            seen, wanted = getattr(self.spec.origin, name), getattr(spec.origin, name)
            if seen != wanted:
                return f"{name} {seen}, here {wanted}" if name != "structure" else f"its graph is not {spec.variant}'s"
        return ""

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

    def lines(self) -> list[str]:
        """One line for each shape, and what no module accounts for."""
        lines = []
        for shape, names in self.classes.items():
            saved = next(row.saved_ms for row in self.table if row.shape == shape)
            who = names[0] if len(names) == 1 else f"each of {', '.join(names)}"
            known = saved.bounds(".4f") if saved.low < saved.high else "no interval"
            lines.append(f"{who} ({shape}): {saved.value:.4f} ms ({known})")
        share, half_ms = 100 * self.rest_ms / self.whole_ms.value, self._rest_half_ms
        rest = f"{self.rest_ms:.3f}{f' ± {half_ms:.3f}' if half_ms else ''} ms ({share:.0f} %)"
        total = f"whole {self.whole_ms.value:.3f} ms, of which {rest} are stem, head and overhead"
        return [*lines, f"{total}; batch {self.conditions.batch}, {self._how}"]

    @property
    def _rest_half_ms(self) -> float:
        """Of the 95 % interval of `rest_ms`; 0 where none is known, as of a profile."""
        row = (1.0, *(-len(names) for names in self.classes.values()))
        pairs = zip(row, self.covariance, strict=True) if self.degrees else ()
        variance = sum(a * sum(b * cell for b, cell in zip(row, cells, strict=True)) for a, cells in pairs)
        return t_95(self.degrees) * math.sqrt(max(variance, 0.0)) if variance else 0.0

    @property
    def misfit(self) -> str:
        """`fit_error` in words, of a profile with its direction."""
        more = {"networks": "", "profile": " less" if self.fit_error < 0 else " more"}
        return f"{100 * abs(self.fit_error):.1f} %{more[self.method]}"

    @property
    def _how(self) -> str:
        if self.method == "profile":
            return (
                f"{self.runtime} {self.engine_precision} on {self.machine}, by the layer profile, scaled to the"
                f" measured median (its layers add up to {self.misfit})"
            )
        where = f"on {self.machine}" if self.is_of_board else f"threads {self.conditions.threads}"
        how = "one after the other" if self.is_of_board else "in one session"
        return f"{self.runtime}, {where}, {len(self.timed)} networks {how}, which differ from the sum by {self.misfit}"


def latency_table_from(path: Path) -> LatencyTable:
    """The table in latency.json; raises InputError if it is damaged or something else."""
    return record_from_json(LatencyTable, path)
