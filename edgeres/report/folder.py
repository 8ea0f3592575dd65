"""Reads a run folder as far as it can be read: what is unfinished or damaged becomes one line each."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import ConfigDict

from edgeres.core.config import Record, record_from_json
from edgeres.core.environment import Environment
from edgeres.core.errors import InputError
from edgeres.core.files import sha256_of
from edgeres.core.metrics import Accuracy, Closeness, Latency
from edgeres.core.runs import EVAL_NAME, RECIPE_NAME, STARTED_NAME, Run, StageFolder
from edgeres.core.stage import REPORT_NAME, StageReport

BOARD_STAGE = "board"


class Figure(Record):
    """A part of a report that is drawn or tabulated; a number that is not finite makes it unreadable."""

    model_config = ConfigDict(allow_inf_nan=False)


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
    def closeness(self) -> tuple[Closeness, ...]:
        """What eval.json says where nobody can be right."""
        return self.evaluation.closeness if self.evaluation else ()

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
        """The newest latency of each artifact on this machine, by sha256; a board's are another machine's."""
        here = (stage for stage in self.stages if stage.report.stage != BOARD_STAGE)
        return {one.artifact: one for stage in here for one in stage.report.latency}

    @property
    def networks(self) -> tuple[FinishedStage, ...]:
        """Stages that made a network on this machine."""
        found = (stage for stage in self.stages if stage.report.output and stage.report.cost)
        return tuple(stage for stage in found if stage.report.stage != BOARD_STAGE)

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


def versions_in(environments: Iterable[Environment]) -> dict[str, list[str]]:
    """Values of machine, system, Python, edgeres and each package by name: several where stages differ."""
    seen: dict[str, dict[str, None]] = {}
    for one in environments:
        own = one.model_dump(include={"machine", "system", "python", "edgeres"})
        for name, value in {**own, **one.packages}.items():
            seen.setdefault(name, {})[str(value)] = None
    return {name: list(values) for name, values in seen.items()}


def is_possible(accuracy: Accuracy) -> bool:
    """Whether the counts can be those of some network."""
    return 0 <= accuracy.correct_top1 <= accuracy.correct_top5 <= accuracy.n > 0


def output_state(stage: FinishedStage) -> str:
    """Whether what the stage made still lies beside its report: `here`, `missing`, `changed`, or empty for nothing."""
    output = stage.report.output
    if output is None:
        return ""
    with suppress(InputError):
        return "here" if sha256_of(stage.path / Path(output.path).name) == output.sha256 else "changed"
    return "missing"


def _stage_from(folder: StageFolder, problems: list[str]) -> FinishedStage | None:
    if not folder.is_finished:
        problems.append(f"{folder.path.name}: unfinished (no report.json){_how_far(folder)}")
        return None
    report, evaluation = (_read(folder.path / name, problems) for name in (REPORT_NAME, EVAL_NAME))
    return FinishedStage(folder.path, report, evaluation) if report else None


def _how_far(folder: StageFolder) -> str:
    if folder.is_busy:
        return "; another process is at work on it"
    return "; it was begun, the same command finishes it there" if (folder.path / STARTED_NAME).is_file() else ""


def _read(path: Path, problems: list[str]) -> StageReport | None:
    if not path.is_file():
        return None
    try:
        return _sound(record_from_json(StageReport, path), path.parent.name, problems)
    except InputError as err:
        problems.append(f"{path.parent.name}: {str(err).replace(f'{path.parent}/', '')}")
        return None


def _sound(report: StageReport, name: str, problems: list[str]) -> StageReport:
    """`report` without measurements that cannot be: right answers beyond n, a latency without or with absurd calls."""
    accuracy = [one for one in report.accuracy if is_possible(one)]
    latency = [one for one in report.latency if all(math.isfinite(ms) and ms > 0 for ms in one.samples_ms)]
    for what, kept, found in (("accuracy", accuracy, report.accuracy), ("latency", latency, report.latency)):
        if len(kept) < len(found):
            problems.append(f"{name}: its {report.stage} report holds an impossible {what}, left out")
    return report.model_copy(update={"accuracy": tuple(accuracy), "latency": tuple(latency)})
