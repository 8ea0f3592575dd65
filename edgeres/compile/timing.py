"""Measured kernel times, kept between builds: one file for each binding, version and GPU.

They lie in $XDG_CACHE_HOME/edgeres/timing, usually ~/.cache/edgeres/timing, and can be deleted at any time. TensorRT
refuses a file of another version or GPU; then it begins anew and says so. Of two builds at once the later one's stays.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from edgeres.compile.job import BuildJob
from edgeres.core.errors import InputError
from edgeres.core.files import written


def timing_folder() -> Path:
    """Where the files lie."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "edgeres" / "timing"


class TimingCache:
    """The file of one build, given to `config` when made; nothing at all where the job names no folder."""

    def __init__(self, trt: Any, config: Any, job: BuildJob) -> None:
        self.name: str | None = None
        self._config, self._notes = config, list[str]()
        if job.timing_folder is None or job.gpu is None:
            return
        gpu = re.sub(r"[^A-Za-z0-9]+", "-", job.gpu).strip("-")
        self.name = f"{job.module}-{trt.__version__}-{gpu}.timing"
        self._path = Path(job.timing_folder, self.name)
        stored = self._path.read_bytes() if self._path.is_file() else b""
        if not self._use(stored):
            self._notes.append(f"the timing cache {self.name} does not fit this TensorRT and GPU; begun anew")
            self._use(b"")

    def save(self) -> tuple[str, ...]:
        """Writes what was measured; sentences about what went wrong, which never fails a build."""
        if self.name is not None:
            try:
                with written(self._path) as temporary:
                    temporary.write_bytes(bytes(self._config.get_timing_cache().serialize()))
            except InputError as err:
                self._notes.append(f"kernel times are not kept: {err}")
        return tuple(self._notes)

    def _use(self, stored: bytes) -> bool:
        cache = self._config.create_timing_cache(stored)
        return cache is not None and bool(self._config.set_timing_cache(cache, False))
