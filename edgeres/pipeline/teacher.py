"""The network a pruned checkpoint was cut from, found through the reports that `--out` leaves beside its files."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from edgeres.core.artifacts import Artifact, Checkpoint
from edgeres.core.config import record_from_json
from edgeres.core.errors import EdgeresError, InputError
from edgeres.core.files import sha256_of
from edgeres.core.plain import short
from edgeres.core.stage import REPORT_NAME, FileRef, StageReport

if TYPE_CHECKING:
    from edgeres.prune.config import RecoverConfig

REPORT_SUFFIX = ".report.json"


def with_teacher(config: RecoverConfig, source: Artifact, *, is_given: bool) -> RecoverConfig:
    """`config` with a teacher that is there, where one is needed.

    Raises InputError if it is gone or cannot be found; the message names what was looked for.
    """
    if config.teacher is None:
        if not config.imitates:
            return config
        return config.model_copy(update={"teacher": _found_beside(source)})
    if config.teacher.is_file():
        return config
    if is_given:
        raise InputError(f"--teacher {config.teacher} does not exist")
    if not config.imitates:
        return config.model_copy(update={"teacher": None})
    raise InputError(
        f"{config.teacher}, the teacher (the network {source.path} was cut from), is gone;"
        " name where it is now: --teacher FILE"
    )


def _found_beside(source: Artifact) -> Path:
    """The source of the pruning that led to `source`, by the reports from file to file."""
    path, sha256 = source.path, source.sha256
    looked: list[str] = []
    while True:
        looked.append(str(_report_path(path)))
        report = _report_of(path, sha256)
        if report is None:
            break
        if report.source is None:
            original = _copied_from(report, path)
            if original is None:
                break
            path, sha256 = original
            continue
        parent = _where(report.source, path)
        if report.stage == "prune":
            return _still_there(parent, report.source, said_by=path, source=source)
        path, sha256 = Path(report.source.path), report.source.sha256
    raise InputError(
        f"say which network {source.path} was cut from: --teacher FILE (looked for a report of the pruning in"
        f" its run and in {', '.join(dict.fromkeys(looked))})"
    )


def _still_there(parent: Path | None, ref: FileRef, *, said_by: Path, source: Artifact) -> Path:
    if parent is not None:
        return parent
    raise InputError(
        f"the report on {said_by} says that {source.path} was cut from {ref.path} (sha256"
        f" {short(ref.sha256)}...), which is not there any more or has changed: it is the teacher, name where"
        " it is now: --teacher FILE"
    )


def _report_path(path: Path) -> Path:
    return path.with_name(path.name + REPORT_SUFFIX)


def _report_of(path: Path, sha256: str) -> StageReport | None:
    """The report on the file, beside it or in its folder of a run, if it is of this content."""
    for place in (_report_path(path), path.with_name(REPORT_NAME)):
        with contextlib.suppress(EdgeresError):
            report = record_from_json(StageReport, place)
            if report.output is not None and report.output.sha256 == sha256:
                return report
    return None


def _copied_from(report: StageReport, copy: Path) -> tuple[Path, str] | None:
    """(the checkpoint that a run began with a copy of, its sha256)."""
    file = report.config.get("file") if report.stage == "import" else None
    with contextlib.suppress(EdgeresError):
        parent = Checkpoint(copy).card.parent
        return (Path(str(file)), parent) if file and parent else None
    return None


def _where(ref: FileRef, beside: Path) -> Path | None:
    """The file meant by `ref`: as recorded, or in the folder of `beside`; only with the recorded content."""
    for path in (Path(ref.path), beside.parent / Path(ref.path).name):
        if path.is_file() and sha256_of(path) == ref.sha256:
            return path
    return None
