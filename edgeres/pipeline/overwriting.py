"""`--out` may not name what the stage reads: a stage never changes its input."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from edgeres.core.artifacts import Artifact
from edgeres.core.config import Config
from edgeres.core.errors import InputError

_CALLED = {
    "teacher": "the teacher",
    "latency": "the latency table",
    "scales": "the scale table",
    "file": "the input",
}


def refuse_inputs(out: Path, source: Artifact | None, config: Config) -> None:
    """Raises InputError if writing `out`, or a file beside it named after it, may replace what is read.

    Links of both kinds are followed: what is the same file is the same input.
    """
    beside = out.parent.iterdir() if out.parent.is_dir() else ()
    written = [out, *(path for path in beside if path.name.startswith(f"{out.name}."))]
    for called, path in _inputs(source, config):
        for target in written:
            if _is_same(path, target):
                what = "is" if target == out else f"writes files beside it, and {target} is"
                raise InputError(f"--out {out} {what} {called}; a stage never changes its input: name another file")


def _inputs(source: Artifact | None, config: Config) -> Iterator[tuple[str, Path]]:
    if source is not None:
        yield "the input", source.path
    for name, value in config:
        for path in value if isinstance(value, tuple) else (value,):
            if isinstance(path, Path):
                yield _CALLED.get(name, f"what --{name.replace('_', '-')} names"), path


def _is_same(a: Path, b: Path) -> bool:
    if os.path.realpath(a) == os.path.realpath(b):
        return True
    try:
        return a.samefile(b)
    except OSError:
        return False
