"""Latencies of shortened networks, kept as they come: a board takes minutes for each, and a dozen can be interrupted.

    networks.json = {"key": what the measurement depends on, "networks": {place in the plan: one network}}

The plan is drawn from the seed, so a place is the same network in every call with the same key.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field

from edgeres.core.config import Record, record_from_json
from edgeres.core.errors import InputError
from edgeres.core.files import write_text
from edgeres.core.metrics import Latency

FILE_NAME = "networks.json"
log = logging.getLogger(__name__)


class NetworkTime(Record):
    """One network: what it lacks, its latency and what made it doubtful."""

    dropped: tuple[str, ...]
    latency: Latency
    warnings: tuple[str, ...] = ()


class NetworkTimes(Record):
    """Content of networks.json."""

    kind: Literal["networks"] = "networks"
    schema_version: int = 1
    key: str
    networks: dict[int, NetworkTime] = Field(default_factory=dict)


class Kept:
    """The networks of one plan that were measured so far; with a path in that file too, whole after each of them.

    What an earlier call with the same `key` has left there counts; what any other has left does not. `reused` says how
    many there were.
    """

    def __init__(self, path: Path | None, key: str) -> None:
        self.path = path
        self._times = _left(path, key) if path else NetworkTimes(key=key)
        self.reused = len(self._times.networks)

    def __iter__(self) -> Iterator[NetworkTime]:
        """In the order of the plan."""
        return (self._times.networks[place] for place in sorted(self._times.networks))

    def at(self, place: int, dropped: tuple[str, ...]) -> NetworkTime | None:
        """The network at this place of the plan if it was measured, and is the one that lacks `dropped`."""
        found = self._times.networks.get(place)
        return found if found is not None and found.dropped == dropped else None

    def keep(self, place: int, network: NetworkTime) -> None:
        """Takes a network in; raises InputError if the file cannot be written."""
        networks = {**self._times.networks, place: network}
        self._times = self._times.model_copy(update={"networks": networks})
        if self.path is not None:
            write_text(self.path, self._times.model_dump_json() + "\n")


def _left(path: Path, key: str) -> NetworkTimes:
    nothing = NetworkTimes(key=key)
    if not path.is_file():
        return nothing
    try:
        found = record_from_json(NetworkTimes, path)
    except InputError as err:
        log.warning("warning: %s; measured anew", err)
        return nothing
    if found.key != key:
        log.info("%s: the board or its software is not as it was then; measured anew", path)
        return nothing
    return found
