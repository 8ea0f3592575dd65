"""What a file was made from, by the report on it: in its run, or beside it where --out put it.

So a pruned checkpoint finds its teacher, `edgeres show` the line of a file back to where it began, and advice names the
file that a command is to take.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from edgeres.core.artifacts import FOR_A_CPU, FUSED_PROFILE, Checkpoint, Model, OnnxModel, model_from
from edgeres.core.config import record_from_json
from edgeres.core.errors import EdgeresError, InputError, few_of
from edgeres.core.runs import WITH_DATA, Run, run_holding
from edgeres.core.safe_text import short, typed
from edgeres.core.stage import REPORT_SUFFIX, StageReport

_SHOW_IMAGES = {"agree", "calibrate", "eval", "optimize", "prune", "qat", "recover"}
_MAKES = {  # of an ONNX file in no run
    "calibrate": "--out SCALES.json",
    "quantize": "--scales SCALES.json --out INT8.onnx",
    "compile": "--out ENGINE.plan",
}


class Parent(NamedTuple):
    """The source of the stage with the `report` on the file before it: where it is, or was if it is gone or changed."""

    report: StageReport
    path: Path
    sha256: str
    is_here: bool

    @property
    def stage(self) -> str:
        """That made the file before it."""
        return self.report.stage


def parents_of(path: Path, sha256: str, *, to_original: bool = True) -> Iterator[Parent]:
    """From the file with this content to what it was made from, and on to where the reports end.

    A copy that a run began with was made from its original, which is opened; not so without `to_original`.
    """
    seen: set[str] = set()
    while sha256 not in seen and (report := _report_on(path, sha256)):
        seen.add(sha256)
        original = _copied_from(report, path) if to_original else None
        source = (Path(report.source.path), report.source.sha256) if report.source else original
        if source is None:
            return
        path, sha256, is_here = _found(*source, near=path)
        yield Parent(report, path, sha256, is_here)


def teacher_of(source: Model) -> Path:
    """The network that `source` was cut from; raises InputError if it is whole, or that is gone or told by none."""
    check_cut(source)
    looked = [source.path]
    for parent in parents_of(source.path, source.sha256):
        if parent.stage == "prune" and parent.is_here:
            return parent.path
        if parent.stage == "prune":
            raise InputError(
                f"the teacher {parent.path} (sha256 {short(parent.sha256)}...), which {source.path} was cut from, is"
                " gone or has changed; name where it is now: --teacher FILE"
            )
        looked.append(parent.path)
    raise InputError(
        f"say which network {source.path} was cut from: --teacher FILE (looked for a report of the pruning in its run"
        f" and in {', '.join(f'{path}{REPORT_SUFFIX}' for path in dict.fromkeys(looked))})"
    )


def lineage_of(model: Model) -> list[str]:
    """From `model` back to where its run began, each `NN-stage/file (sha256)`."""
    parents = parents_of(model.path, model.sha256, to_original=False)
    line = [_named(model.path, model.sha256)]
    line += [_named(one.path, one.sha256) + ("" if one.is_here else ", gone or changed since") for one in parents]
    if len(line) == 1 and model.card.parent and run_holding(model.path) is None:
        line.append(f"({short(model.card.parent)}, not in a run here)")
    return line


def line_of(parent: str | None, parents: Mapping[str, str | None]) -> list[str]:
    """sha256 of a parent, its own, ..., as far as they are among `parents`: sha256 -> that of its parent."""
    line: list[str] = []
    while parent and parent in parents and parent not in line:
        line.append(parent)
        parent = parents[parent]
    return line


def advised(command: str, *named: Path | Run | str, data: str = "", on: str = "") -> str:
    """The command on the files or the run as it is typed: on the `data`, or with what of that they do not remember.

    A word in place of a file is a str. Of a file in no run it says where the result goes.
    """
    stage, last = command.split()[1], named[-1]
    home = last if isinstance(last, Run) else run_holding(last) if isinstance(last, Path) else None
    words = [f"--run {one.typed}" if isinstance(one, Run) else typed(one) for one in named]
    if data or stage in _SHOW_IMAGES:
        words.append(f"--data {typed(data)}" if data else home.lacks_data if home else WITH_DATA)
    if isinstance(last, Path) and home is None:
        words.append(_MAKES.get(stage, ""))
    return " ".join(filter(None, (command, *words, on and f"--on {on}")))


def check_cut(source: Model) -> None:
    """Raises InputError if nothing was dropped from it."""
    if not source.spec.dropped:
        raise InputError(
            f"nothing was dropped from {source.path}, so there is nothing to recover; drop first,"
            f" {advised('edgeres prune', source.path)} --drop N, or train it on labels: --method finetune"
        )


def source_of(path: Path) -> Path | None:
    """What the model file was made from; None where that is not known, or not there."""
    with suppress(EdgeresError):
        parent = next(parents_of(path, model_from(path).sha256, to_original=False), None)
        return parent.path if parent is not None and parent.is_here else None
    return None


def for_a_cpu(model: OnnxModel) -> str:
    """What is said of a file whose pairs were placed for a CPU; empty for others."""
    if model.profile != FUSED_PROFILE:
        return ""
    return FOR_A_CPU.format(advised("edgeres quantize", source_of(model.path) or "FLOAT.onnx"))


def check_for_tensorrt(model: OnnxModel) -> None:
    """Raises InputError for a file whose pairs were placed for a CPU, and for one on integers, without pairs."""
    if said := for_a_cpu(model):
        raise InputError(f"{model.path} was {said}")
    if model.integer_operators:
        raise InputError(
            f"{model.path} computes with {few_of(model.integer_operators, 3)}, TensorRT reads Q/DQ pairs only:"
            f" quantize the float network, {advised('edgeres quantize', source_of(model.path) or 'FLOAT.onnx')}"
        )


def _named(path: Path, sha256: str) -> str:
    return f"{path.parent.name}/{path.name} ({short(sha256)})".lstrip("/")


def _report_on(path: Path, sha256: str) -> StageReport | None:
    run = run_holding(path)
    reports = [report for _, report in run.reports()] if run else []
    with suppress(EdgeresError):
        reports.append(record_from_json(StageReport, path.with_name(path.name + REPORT_SUFFIX)))
    return next((one for one in reports if one.output is not None and one.output.sha256 == sha256), None)


def _found(named: Path, sha256: str, *, near: Path) -> tuple[Path, str, bool]:
    """(where the file with this content is, else where it was `named`; its sha256; whether it is there).

    Looked for in the run of the file made from it, as it was named before others, where it was, and beside that file.
    """
    run = run_holding(near)
    made = ((folder.path, one.output) for folder, one in (run.reports() if run else ()) if one.output)
    own = [folder / Path(output.path).name for folder, output in made if output.sha256 == sha256]
    own.sort(key=lambda one: one.parts[-2:] != named.parts[-2:])
    for place in (*own, named, near.with_name(named.name)):
        with suppress(EdgeresError):
            if model_from(place).sha256 == sha256:
                return place, sha256, True
    return next(iter(own), named), sha256, False


def _copied_from(report: StageReport, copy: Path) -> tuple[Path, str] | None:
    """(the checkpoint that a run began with a copy of, its sha256)."""
    file = report.config.get("file") if report.stage == "import" else None
    with suppress(EdgeresError):
        parent = Checkpoint(copy).card.parent
        return (Path(str(file)), parent) if file and parent else None
    return None
