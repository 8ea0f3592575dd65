"""What an interrupted call had made, so that the same call goes on: records under names, in one file.

    {"schema_version": 1, "key": what all records depend on, "records": {name: record}}

A file of another key is of no use and is replaced, as is a damaged one; it is written whole or not at all.
"""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from edgeres.core.files import write_text

T = TypeVar("T")
_SCHEMA_VERSION = 1
log = logging.getLogger(__name__)


class Kept(Generic[T]):
    """`records` by name; with a `path` they are in that file too, written every `every_s` seconds at most.

    `reused`: how many an earlier call with the same `key` has left there.
    """

    def __init__(self, path: Path | None, key: str, kind: Any, *, every_s: float = 0.0) -> None:
        self._path, self._key, self._every_s = path, key, every_s
        self._adapter: TypeAdapter[dict[str, T]] = TypeAdapter(dict[str, kind])
        self._written_s = time.perf_counter()
        self.records: dict[str, T] = self._left()
        self.reused = len(self.records)

    def keep(self, name: str, record: T) -> T:
        """Takes a record in and returns it; raises InputError if the file cannot be written."""
        self.records[name] = record
        if time.perf_counter() - self._written_s >= self._every_s:
            self.save()
        return record

    def save(self) -> None:
        """Writes the file."""
        if self._path is None:
            return
        records = self._adapter.dump_python(self.records, mode="json")
        content = {"schema_version": _SCHEMA_VERSION, "key": self._key, "records": records}
        write_text(self._path, json.dumps(content) + "\n")
        self._written_s = time.perf_counter()

    def clear(self) -> None:
        """Removes the file."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _left(self) -> dict[str, T]:
        if self._path is None or not self._path.is_file():
            return {}
        try:
            content = json.loads(self._path.read_text(encoding="utf-8"))
            if (content["schema_version"], content["key"]) == (_SCHEMA_VERSION, self._key):
                return self._adapter.validate_json(json.dumps(content["records"]))
        except (OSError, ValueError, TypeError, KeyError, ValidationError):
            log.warning("warning: %s is damaged; made anew", self._path)
            return {}
        log.info("%s is of a call that differs; made anew", self._path)
        return {}
