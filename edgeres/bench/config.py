"""The options of `edgeres bench`, here and on a board."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, field_validator

from edgeres.bench.measure import Turn
from edgeres.core.config import Config
from edgeres.core.errors import InputError
from edgeres.core.records.latency import SessionConfig

BUILD_TIMEOUT_S = 3600
_SHARE = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(%?)")
_WIDEST = 0.5
_MOST_CALLS_A_TURN = 100  # a tiny model needs no more, and its report stays small


class BenchConfig(SessionConfig):
    """How to time."""

    rounds: int = Field(20, ge=1, description="turns of each model, interleaved")
    samples: int = Field(100, ge=1, description="calls of each model at least, whatever the time")
    precision: str | None = Field(
        None, description="add rounds until every median is known this well (95 %), as in 1%; per module: fp32 or int8"
    )
    max_seconds: float = Field(60.0, gt=0, description="with a precision: time for each model at most")
    batches: tuple[int, ...] = Field((), description="images a second at these batch sizes too, as in 1,8,32")
    data: str | None = Field(
        None, description="time the whole way too, from the image files of this data set (folder:PATH) to the class"
    )
    include_qdq: bool = Field(False, description="time Q/DQ graphs on the CPU too")

    @field_validator("precision", mode="before")
    @classmethod
    def _is_share(cls, value: Any) -> Any:
        if value is not None:
            share_from(str(value))
        return None if value is None else str(value)

    @field_validator("batches")
    @classmethod
    def _are_sizes(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(size < 1 for size in value):
            raise ValueError("batch sizes are whole numbers from 1 on")
        return tuple(sorted(set(value)))

    def needless(self) -> dict[str, str]:
        """A limit of time is one of the precision's."""
        return {} if self.precision else {"max_seconds": "it limits --precision, which is not given"}

    @property
    def precision_share(self) -> float | None:
        """0.01 for "1%"."""
        return None if self.precision is None else share_from(self.precision)

    @property
    def turn(self) -> Turn:
        """One model's share of a round."""
        least = math.ceil(self.samples / self.rounds)
        return Turn(seconds=self.seconds / self.rounds, least=least, most=max(_MOST_CALLS_A_TURN, least))


def share_from(text: str) -> float:
    """0.01 from "1%", "1 %" or "0.01"; raises ValueError for anything else, for nothing and for more than a half."""
    match = _SHARE.fullmatch(text.strip())
    share = float(match[1]) / (100 if match[2] else 1) if match else 0.0
    if not 0 < share <= _WIDEST:
        raise ValueError("a precision is written 1% or 0.01, up to 50%")
    return share


class BoardConfig(Config):
    """How to measure on a board."""

    batch: int = Field(1, ge=1, description="images per call, where the model leaves it open")
    warmup_s: int = Field(2, ge=0, description="seconds of warm-up before each run on the board")
    duration_s: int = Field(
        10, ge=1, description="seconds of latency, in rounds where models are several, and of energy"
    )
    idle_s: float = Field(5.0, gt=0, description="seconds at rest before them, for the power at rest")
    lock_clocks: bool = Field(False, description="hold the board's clocks during the run (needs root there)")
    power_mode: str | None = Field(None, description="power mode of the board during the run, by name or id")
    data: str | None = Field(None, description="accuracy too, on val of: digits, cifar10, folder:PATH, ...")
    images: int | None = Field(None, gt=0, description="on this many images of val only (stratified)")
    reference: Path | None = Field(None, description="as of edgeres eval: what --data without labels is judged by")
    download: bool = Field(False, description="fetch the data set if it is not here")
    timeout_s: int = Field(
        BUILD_TIMEOUT_S, ge=1, description="seconds after which a build, run or evaluation on the board is ended"
    )
    incidental: ClassVar[frozenset[str]] = Config.incidental | {"timeout_s"}
    unsaid: ClassVar[frozenset[str]] = frozenset({"reference"})

    def check(self) -> None:
        """The number of images goes with a data set."""
        if self.images is not None and self.data is None:
            raise InputError("--images is the number of images of a data set; name it: --data folder:PATH")

    def check_time(self) -> None:
        """A run may take as long as it was asked to."""
        asked_s = self.warmup_s + self.duration_s
        if self.timeout_s <= asked_s:
            raise InputError(f"--timeout-s {self.timeout_s} would end a run, which takes {asked_s} s; give it more")
