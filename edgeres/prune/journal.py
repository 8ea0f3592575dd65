"""What an interrupted search had measured, so that the same search goes on.

search.json: {"schema_version", "key", "sets": {"layer1.2 layer2.1": [[sums of batch 0], ...]}, "predicted": {...}}.
`key` names everything the numbers depend on; a file with another key is of no use and is replaced.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from edgeres.core.files import write_text
from edgeres.prune.plan import Subset

Sums = tuple[float, ...]
_SCHEMA_VERSION = 1
_EVERY_S = 5.0


class Journal:
    """Sums per set and batch, and predictions; on disk if `path` is given, written whole every few seconds."""

    def __init__(self, path: Path | None = None, key: str = "") -> None:
        self._path, self._key, self._written = path, key, time.perf_counter()
        found = _read(path, key) if path else {}
        self.sums: dict[Subset, list[Sums]] = {
            frozenset(names.split()): [tuple(row) for row in rows] for names, rows in found.get("sets", {}).items()
        }
        self.predicted: dict[str, float] = dict(found.get("predicted", {}))

    def save_if_due(self) -> None:
        """Writes if the last time was a while ago."""
        if time.perf_counter() - self._written > _EVERY_S:
            self.save()

    def save(self) -> None:
        """Writes the file."""
        if self._path is None:
            return
        sets = {name_of(subset): rows for subset, rows in self.sums.items()}
        content = {"schema_version": _SCHEMA_VERSION, "key": self._key, "sets": sets, "predicted": self.predicted}
        write_text(self._path, json.dumps(content) + "\n")
        self._written = time.perf_counter()


def name_of(subset: Subset) -> str:
    """A set as one string."""
    return " ".join(sorted(subset))


def _read(path: Path, key: str) -> dict[str, Any]:
    """The file's content; empty if it is absent, damaged or about something else, for then all is measured anew."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    is_ours = isinstance(content, dict) and (content.get("schema_version"), content.get("key")) == (
        _SCHEMA_VERSION,
        key,
    )
    return content if is_ours else {}
