"""How long each layer of an engine takes: the file of `trtexec --exportProfile`.

    [{"count": N}, {"name", "timeMs", "averageMs", "medianMs", "percentage"}, ...]

What trtexec prints and --exportTimes are read by `edgeres.bench.agent.trtexec`, the layers' types by
`edgeres.compile.layers`.
"""

from __future__ import annotations

import json
from typing import Any

from edgeres.core.config import Record
from edgeres.core.errors import InputError


class LayerTime(Record):
    """Time of one layer of the engine in ms; the median is None where an old trtexec gives none."""

    name: str
    average_ms: float
    median_ms: float | None
    share: float


class Profile(Record):
    """Times of all layers over `count` runs."""

    count: int
    layers: tuple[LayerTime, ...]


def profile_from(text: str) -> Profile:
    """The file of --exportProfile; raises InputError with one line if it is damaged or another file."""
    try:
        rows = json.loads(text)
        count = int(rows[0]["count"])
        layers = tuple(_time_from(row) for row in rows[1:])
    except (KeyError, TypeError, ValueError, IndexError, RecursionError) as err:
        reason = " ".join(str(err).split())
        raise InputError(f"damaged layer profile of trtexec: {type(err).__name__}: {reason}") from err
    return Profile(count=count, layers=layers)


def _time_from(row: dict[str, Any]) -> LayerTime:
    return LayerTime(
        name=str(row["name"]),
        average_ms=float(row["averageMs"]),
        median_ms=float(row["medianMs"]) if "medianMs" in row else None,
        share=float(row["percentage"]) / 100,
    )
