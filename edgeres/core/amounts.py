"""Amounts as people write them, `3ms`, `60M` or `0.8x` of the whole: what a network is to be brought down to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from edgeres.core.errors import InputError

_MACS = {"k": 1e3, "m": 1e6, "g": 1e9}


class Target(NamedTuple):
    """What is to be reached: an amount (of a latency, milliseconds), or a share of what the whole network takes."""

    value: float
    is_ratio: bool

    def of(self, whole: float) -> float:
        """The amount, where the whole network takes `whole`."""
        return self.value * whole if self.is_ratio else self.value

    def __str__(self) -> str:
        return f"{self.value:g}x" if self.is_ratio else f"{self.value:g} ms"


def counted(number: float, noun: str) -> str:
    """`1 core`, `2 cores`, `0.5 epochs`; three digits of what is no whole number."""
    return f"{int(number) if number == int(number) else f'{number:.3g}'} {noun}{'' if number == 1 else 's'}"


def target_from(text: str, option: str = "--target-latency") -> Target:
    """`3ms` or `0.8x`; raises InputError that names `option` for anything else."""
    target = _amount_from(text, {"ms": 1.0})
    if target is None or (target.is_ratio and target.value >= 1):
        raise InputError(f"{option} {text}: say milliseconds such as 3ms, or a share below 1 such as 0.8x")
    return target


def macs_from(text: str) -> Target:
    """`60M` or `0.5x`; raises InputError for anything else."""
    if target := _amount_from(text, _MACS):
        return target
    raise InputError(f"--macs {text}: say a share such as 0.5x, or a number such as 60M")


def _amount_from(text: str, units: Mapping[str, float]) -> Target | None:
    """A positive number with one of `units`, or with x for a share; None for anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-z]*)\s*", text.lower())
    if match is None or float(match[1]) == 0 or match[2] not in {"x", *units}:
        return None
    return Target(float(match[1]) * units.get(match[2], 1.0), match[2] == "x")
