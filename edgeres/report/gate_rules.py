"""The rules of `edgeres gate`, as options, and their limits in the unit of the figures they are held against."""

from __future__ import annotations

import re
from typing import NamedTuple

from pydantic import Field

from edgeres.core.config import Config, command_with
from edgeres.core.errors import InputError
from edgeres.core.runs import Run

_LATENCY = {"us": 1e-3, "ms": 1.0, "s": 1e3}, "a latency; write it as 5ms, 800us or 0.02s"
_BYTES = {"B": 1.0, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}
_SIZE = _BYTES, "a file size; write it as 2MB, 800kB or 1.5MiB"
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)")


class GateConfig(Config):
    """The rules; at least one."""

    max_loss: float | None = Field(None, ge=0, description="points of top-1 that may be lost against the first network")
    min_top1: float | None = Field(None, gt=0, le=100, description="top-1 in percent, at least")
    min_agreement: float | None = Field(
        None, gt=0, le=1, description="share of images with the first network's top-1, at least"
    )
    min_closeness: float | None = Field(
        None,
        gt=0,
        le=1,
        description="mean closeness to the run's float network, at least: cosine of an embedding, 1 - relative error of"
        " tensors, or without labels the share of images with its first guess",
    )
    max_p50: str | None = Field(None, description="median latency, at most, such as 3ms")
    max_p99: str | None = Field(None, description="99th percentile of latency, at most, such as 5ms")
    min_speedup: float | None = Field(None, gt=0, description="times as fast as the first network, at least")
    max_size: str | None = Field(None, description="size of the file, at most, such as 2MB")
    on: str | None = Field(
        None,
        description="by what this board measured, or `here`; if not given, by the board that measured it, if one did",
    )
    strict: bool = Field(False, description="the whole 95 % interval must keep the limit, not only the value")

    def check(self) -> None:
        """There is a rule, and amounts can be read."""
        if not self.rules:
            raise InputError("no rule given; name one, such as --max-loss 0.5 (see: edgeres gate --help)")
        if self.min_top1 is not None and self.min_top1 <= 1:
            percent = f"{100 * self.min_top1:g}"
            raise InputError(f"--min-top1 {self.min_top1:g} is in percent; did you mean {percent}?")

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules given, in the order of the fields; raises InputError for an amount that cannot be read."""
        names = [name for name in type(self).model_fields if name not in {"on", "strict"}]
        given = ((name, getattr(self, name)) for name in names)
        return tuple(_rule_from(name, value) for name, value in given if value is not None)

    def again(self, run: Run, on: str | None) -> str:
        """The command that judges the run by the same rules, by what `on` measured."""
        return command_with(f"edgeres gate {run.typed}", self, on=on)


class Rule(NamedTuple):
    """One option as it was given, `--max-p99 5ms`, and its limit in the unit of the rule's figure."""

    name: str
    option: str
    limit: float

    def keeps(self, value: float) -> bool:
        """Whether `value` is on the right side of the limit."""
        return value <= self.limit if self.name.startswith("max") else value >= self.limit


def _rule_from(name: str, given: float | str) -> Rule:
    option = f"--{name.replace('_', '-')}"
    if isinstance(given, float):
        return Rule(name, f"{option} {given:g}", given)
    units, what = _SIZE if name == "max_size" else _LATENCY
    match = _AMOUNT.fullmatch(given.strip())
    limit = float(match[1]) * units.get(match[2], 0) if match else 0.0
    if limit <= 0:
        raise InputError(f"{option}: {given!r} is not {what}")
    return Rule(name, f"{option} {given}", limit)
