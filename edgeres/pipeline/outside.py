"""`--out DIR/NAME`: a result goes outside the runs, and may not name what the stage reads: it never changes its input.

The stage works in the hidden folder DIR/.NAME.KEY, where the same call goes on; then the result, its companions (a
manifest, a log) as NAME.* and its report as NAME.report.json are moved beside it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from edgeres.core.artifacts import Artifact
from edgeres.core.config import Config
from edgeres.core.errors import InputError
from edgeres.core.files import made_folder, set_aside
from edgeres.core.runs import STARTED_NAME, StageFolder
from edgeres.core.stage import REPORT_NAME, REPORT_SUFFIX, StageResult, file_ref, write_report
from edgeres.pipeline.stages import leave_no_trace

log = logging.getLogger(__name__)
_KEY_SHOWN = 12

_CALLED = {"teacher": "the teacher", "latency": "the latency table", "scales": "the scale table", "file": "the input"}


def check_out(out: Path, kind: type[Artifact], command: str, source: Artifact | None, config: Config) -> None:
    """Raises InputError if `out` is no file of `kind`, or if writing it, or a file named after it, may replace input.

    Links of both kinds are followed: what is the same file is the same input.
    """
    if out.suffix != kind.suffix:
        raise InputError(f"--out {out}: `edgeres {command}` writes a {kind.suffix} file")
    if out.is_dir():
        raise InputError(f"--out {out} is a folder; name a file")
    beside = out.parent.iterdir() if out.parent.is_dir() else ()
    written = [out, *(path for path in beside if path.name.startswith(f"{out.name}."))]
    for called, path in _inputs(source, config):
        for target in written:
            if _is_same(path, target):
                what = "is" if target == out else f"writes files beside it, and {target} is"
                raise InputError(f"--out {out} {what} {called}; a stage never changes its input: name another file")


def folder_beside(out: Path, stage: str, key: str) -> Path:
    """The hidden folder in which the call with this key works; raises InputError if another process works there."""
    folder = out.parent / f".{out.name}.{key[:_KEY_SHOWN]}"
    if StageFolder(folder, 0, stage).is_busy:
        raise InputError(f"another edgeres is making {out}; wait for it, or choose another --out")
    made_folder(folder, f"--out {out}")
    return folder


def leave_or_say_where(folder: Path) -> None:
    """After a call that did not finish: removes its folder, or names it if the same call can go on there."""
    if not (folder / STARTED_NAME).is_file():
        return
    leave_no_trace(folder)
    if folder.is_dir():
        log.warning("what was done is kept in %s; the same command goes on from there", folder)


def moved_out(result: StageResult[Artifact], folder: Path, out: Path) -> StageResult[Artifact]:
    """Renames the artifact to `out`, its companions to names that begin so; the report is written beside them.

    Files of an earlier result called `out` are replaced; anything else that stands there is set aside.
    """
    was_there, made = out.is_file(), result.output.path
    try:
        (folder / REPORT_NAME).unlink()
        for path in folder.iterdir():
            suffix = path.name.removeprefix(made.name) if path.name.startswith(made.name) else f".{path.name}"
            _put(path, out.with_name(out.name + suffix), over_earlier=was_there)
        folder.rmdir()
    except OSError as err:
        raise InputError(f"cannot write {out}: {err.strerror or err}") from err
    output = type(result.output)(out)
    report = result.report.model_copy(update={"output": file_ref(output)})
    write_report(report, out.with_name(out.name + REPORT_SUFFIX))
    return StageResult(output, report)


def _put(path: Path, target: Path, *, over_earlier: bool) -> None:
    """Renames `path` to `target`; a folder that holds nothing but what `path` holds as well is an earlier result's."""
    if over_earlier and path.is_dir() and target.is_dir():
        names = {one.name for one in path.iterdir()}
        if {one.name for one in target.iterdir()} <= names:
            for name in names:
                _put(path / name, target / name, over_earlier=True)
            path.rmdir()
            return
    if target.is_dir() or (target.exists() and not over_earlier):
        set_aside(target)
    os.replace(path, target)


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
    with suppress(OSError):
        return a.samefile(b)
    return False
