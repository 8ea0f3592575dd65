"""Reads a run folder as far as it can be read: what is unfinished or damaged becomes one line each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeres.core.artifacts import Checkpoint
from edgeres.core.config import record_from_json
from edgeres.core.errors import InputError
from edgeres.core.metrics import Accuracy, Latency
from edgeres.core.runs import EVAL_NAME, RECIPE_NAME, Run, StageFolder
from edgeres.core.spec import ModelSpec
from edgeres.core.stage import StageReport


@dataclass(frozen=True)
class FinishedStage:
    """A stage folder with a readable report, and what was evaluated in it."""

    path: Path
    report: StageReport
    evaluation: StageReport | None

    @property
    def name(self) -> str:
        """NN-stage."""
        return self.path.name

    @property
    def accuracy(self) -> tuple[Accuracy, ...]:
        """What eval.json says, before what the stage itself measured on val."""
        own = tuple(one for one in self.report.accuracy if one.split == "val")
        return (*self.evaluation.accuracy, *own) if self.evaluation else own

    @property
    def warnings(self) -> tuple[str, ...]:
        """Of the stage and of its evaluation."""
        return (*self.report.warnings, *(self.evaluation.warnings if self.evaluation else ()))


@dataclass(frozen=True)
class RunFolder:
    """The readable part of a run; `problems` says what is missing."""

    path: Path
    stages: tuple[FinishedStage, ...]
    problems: tuple[str, ...]

    @property
    def recipe(self) -> str | None:
        """The text of recipe.toml, if the run was made from one."""
        path = self.path / RECIPE_NAME
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None

    @property
    def latencies(self) -> dict[str, Latency]:
        """The newest latency of each artifact, by sha256."""
        return {one.artifact: one for stage in self.stages for one in stage.report.latency}

    @property
    def skipped(self) -> dict[str, str]:
        """Why an artifact was not timed, by sha256."""
        found: dict[str, str] = {}
        for stage in self.stages:
            reasons = stage.report.results.get("skipped")
            if stage.report.stage == "bench" and isinstance(reasons, dict):
                found.update({str(sha256): str(reason) for sha256, reason in reasons.items()})
        return found


def run_folder_from(path: Path) -> RunFolder:
    """The run in `path`; raises InputError if there is no such folder or no finished stage in it."""
    if not path.is_dir():
        raise InputError(f"there is no run folder {path} (see: edgeres ls runs)")
    problems: list[str] = []
    stages = [stage for folder in Run(path).folders() if (stage := _stage_from(folder, problems))]
    if not stages:
        found = f"; found {'; '.join(problems)}" if problems else ""
        raise InputError(f"{path} holds no finished stage{found}; make one with: edgeres run demo")
    return RunFolder(path, tuple(stages), tuple(problems))


def spec_in(stage: FinishedStage) -> ModelSpec | None:
    """The spec of the stage's checkpoint; None if it made none or the file is gone or damaged."""
    output = stage.report.output
    path = stage.path / Path(output.path).name if output else None
    if path is None or path.suffix != Checkpoint.suffix:
        return None
    try:
        return Checkpoint(path).spec
    except InputError:
        return None


def _stage_from(folder: StageFolder, problems: list[str]) -> FinishedStage | None:
    if not folder.is_finished:
        problems.append(f"{folder.path.name}: unfinished (no report.json)")
        return None
    try:
        report = folder.report()
    except InputError as err:
        problems.append(_problem(folder.path, err))
        return None
    return FinishedStage(folder.path, report, _evaluation_in(folder.path, problems))


def _evaluation_in(path: Path, problems: list[str]) -> StageReport | None:
    if not (path / EVAL_NAME).is_file():
        return None
    try:
        return record_from_json(StageReport, path / EVAL_NAME)
    except InputError as err:
        problems.append(_problem(path, err))
        return None


def _problem(path: Path, err: InputError) -> str:
    return f"{path.name}: {str(err).replace(f'{path}/', '')}"
