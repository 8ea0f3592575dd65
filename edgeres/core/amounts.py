"""Limits as people write them: "5ms" of latency, "2MB" of file."""

from __future__ import annotations

import re

from edgeres.core.errors import InputError

_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_BYTES = {"B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)")


def milliseconds_from(text: str) -> float:
    """The milliseconds of "5ms", "800us" or "0.02s"; raises InputError for anything else and for zero."""
    return _amount(text, _MS, "a latency; write it as 5ms, 800us or 0.02s")


def bytes_from(text: str) -> float:
    """The bytes of "2MB", "800kB" (decimal) or "1.5MiB" (binary); raises InputError for anything else and for zero."""
    return _amount(text, _BYTES, "a file size; write it as 2MB, 800kB or 1.5MiB")


def _amount(text: str, units: dict[str, float] | dict[str, int], what: str) -> float:
    match = _AMOUNT.fullmatch(text.strip())
    value = float(match[1]) * units.get(match[2], 0) if match else 0.0
    if value <= 0:
        raise InputError(f"{text!r} is not {what}")
    return value
