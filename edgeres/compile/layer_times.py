"""How long the layers of an engine took: trtexec's profile, and the figures of the engine in one piece beside it.

    NAME.graph.json or NAME.layers.json    the layers
    NAME.profile.json                      [{"count": N}, {"name", "averageMs", "medianMs", ...}, ...]
    NAME.profile.metadata.json             {"performance_summary": {"GPU Compute Time": [min, max, mean, median, p99]},
                                            "inference_options": {...}, "device_information": {...}}

Profiling adds to every layer, so the times add up to more than the engine takes: 0.731 ms against 0.546 ms for a
ResNet-18 on an A100. Their sum is no latency.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from edgeres.compile.layers import UNKNOWN, Layer, layers_path
from edgeres.core.errors import InputError

_LAYERS = ("graph.json", "layers.json")
_MEDIAN = 3  # of the five figures of a performance summary


class Times(NamedTuple):
    """(layer, ms) of every row of a profile; `engine_ms`: median GPU compute time of the engine, `device` its GPU."""

    rows: tuple[tuple[str, float], ...]
    engine_ms: float | None = None
    device: str | None = None


def times_in(profile: str) -> list[tuple[str, float]]:
    """(layer, its median in ms, the mean where an old trtexec gives none) in the file of `trtexec --exportProfile`.

    Raises InputError with one line if it is damaged or another file.
    """
    try:
        head, *rows = json.loads(profile)
        int(head["count"])
        return [(str(row["name"]), float(row["medianMs"] if "medianMs" in row else row["averageMs"])) for row in rows]
    except (KeyError, TypeError, ValueError, RecursionError) as err:
        reason = " ".join(str(err).split())
        raise InputError(f"damaged layer profile of trtexec: {type(err).__name__}: {reason}") from err


def timed(layers: Sequence[Layer], rows: Sequence[tuple[str, float]]) -> Iterator[tuple[Layer, float]]:
    """Every row of a profile with what is known of its layer, which is its name at least."""
    known: dict[str, list[Layer]] = {}
    for layer in layers:
        known.setdefault(layer.name, []).append(layer)
    for name, time_ms in rows:
        same = known.get(name)
        yield same.pop(0) if same else Layer(name=name, kind=UNKNOWN, text=name, inputs=(), outputs=()), time_ms


def times_beside(described: Path) -> Times | None:
    """What stands beside the layers in `described`, or beside those of that plan; None without a profile there.

    Raises InputError if it is damaged.
    """
    if described.suffix == ".plan":
        described = layers_path(described)
    end = next((end for end in _LAYERS if described.name.endswith(end)), None)
    if end is None:
        return None
    path = described.with_name(described.name.removesuffix(end) + "profile.json")
    if not path.is_file():
        return None
    try:
        rows = times_in(path.read_text(encoding="utf-8"))
    except InputError as err:
        raise InputError(f"{path}: {err}") from err
    except (OSError, UnicodeDecodeError) as err:
        raise InputError(f"cannot read {path}: {err}") from err
    return Times(tuple(rows), *_whole(path.with_name(path.name.removesuffix("json") + "metadata.json")))


def _whole(path: Path) -> tuple[float | None, str | None]:
    """(median GPU compute time of the engine in ms, its GPU) in a metadata file; None for what is not there."""
    if not path.is_file():
        return None, None
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        median = content["performance_summary"]["GPU Compute Time"][_MEDIAN]
        device = content.get("device_information", {}).get("Selected Device")
        return float(median), None if device is None else str(device)
    except (OSError, KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError) as err:
        raise InputError(f"{path} holds no performance summary: {type(err).__name__}: {err}") from err
