"""Reads a run folder as far as it can be read: what is unfinished or damaged becomes one line each.

Where every file comes from is in it too: its hash, its parent, and the command that makes it again.
"""

from __future__ import annotations

import glob
import logging
import math
import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import ConfigDict

from edgeres.bench.validity import INVALID
from edgeres.core.artifacts import Artifact
from edgeres.core.config import NOT_SET, Config, Record, record_from_json, words_of
from edgeres.core.environment import Environment
from edgeres.core.errors import EdgeresError, InputError
from edgeres.core.files import sha256_of
from edgeres.core.metrics import Accuracy, Closeness, Latency
from edgeres.core.runs import EVAL_NAME, RECIPE_NAME, STARTED_NAME, Run, StageFolder
from edgeres.core.stage import (
    NEVER_EXPORTED,
    REPORT_NAME,
    REPORT_SUFFIX,
    FileRef,
    StageReport,
    begins_another,
    left_out,
    never_exported,
    replaced_in,
    without_newer,
)
from edgeres.evaluate.stage import EvalConfig

log = logging.getLogger(__name__)
A = TypeVar("A", bound=Artifact)
S = TypeVar("S", bound=Any)  # it has sha256 and session
BOARD_STAGE = "board"
_ARGUMENTS = {"train": "arch", "import": "file"}  # what a command takes without a name
_COMMANDS = {"latency": "bench --per-module", "sweep": "prune"}  # where it is not called as the stage
STUDIES = frozenset({"reorder", "paths", "gradients", "depth", "ordering", "connect"})
BEGUN = "it was begun, the same command finishes it there"
STRAY = "made from a file that this run does not hold any more"
LOST = {"missing": "the file is gone", "changed": "not the file its report speaks of (another sha256)"}
OF_REPORT = "the figures are those of its report"


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

    def has_judged(self, sha256: str) -> bool:
        """Whether it is said here how good the file with this content is."""
        return sha256 in {one.artifact for one in self.accuracy} | {one.artifact for one in self.closeness}

    @property
    def is_invalid(self) -> bool:
        """Whether it is a session that found against itself."""
        return str(self.report.results.get("verdict", "")).startswith(INVALID)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Of the stage and of its evaluation; what was not exported then is told of the run as it is now."""
        own = (one for one in self.report.warnings if NEVER_EXPORTED not in one)
        return (*own, *(self.evaluation.warnings if self.evaluation else ()))


class TimedHere(NamedTuple):
    """One latency, and the stage that measured it on this machine."""

    stage: FinishedStage
    latency: Latency

    @property
    def sha256(self) -> str:
        """Of the file."""
        return self.latency.artifact

    @property
    def session(self) -> str:
        """That of the latency."""
        return self.latency.session

    def noting(self, last: TimedHere) -> Latency:
        """The latency with a note of the `last` one, if that is another."""
        if last is self:
            return self.latency
        why = "but in an invalid session" if last.stage.is_invalid else "but apart from the others"
        later = f"{last.stage.name} timed it later, {why}: p50 {last.latency.p50_ms:.3f} ms"
        return self.latency.model_copy(update={"note": "; ".join(filter(None, (self.latency.note, later)))})


def that_count(seen: Sequence[S], made: Iterable[str], rank: Callable[[S, bool], Any]) -> dict[str, tuple[S, S]]:
    """sha256 -> (the measurement that counts, the last one) of those `seen`, the oldest first.

    It is the highest by `rank`, which is told whether its session timed several networks, and of equals the newest; but
    for all that it timed the session that timed the newest network, the first of `made`.
    """
    several = Counter(session for session, _ in {(one.session, one.sha256) for one in seen})
    best = sorted(seen, key=lambda one: rank(one, several[one.session] > 1))
    used, last = ({one.sha256: one for one in order} for order in (best, seen))
    newest = next((used[sha256].session for sha256 in made if sha256 in used), "")
    used |= {one.sha256: one for one in best if newest and one.session == newest}
    return {sha256: (one, last[sha256]) for sha256, one in used.items()}


@dataclass(frozen=True)
class RunFolder:
    """The readable part of a run, without what was made from a file replaced since; `problems` says what is missing."""

    path: Path
    stages: tuple[FinishedStage, ...]
    problems: tuple[str, ...]

    @property
    def recipe(self) -> str | None:
        """The text of recipe.toml, if the run was made from one."""
        path = self.path / RECIPE_NAME
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None

    @cached_property
    def timings(self) -> dict[str, tuple[TimedHere, TimedHere]]:
        """`that_count` of each file timed on this machine: valid sessions first, then those of several networks."""
        own = (stage for stage in self.stages if stage.report.stage != BOARD_STAGE)
        here = [TimedHere(stage, one) for stage in own for one in stage.report.latency]
        made = (one.report.output.sha256 for one in reversed(self.networks) if one.report.output)
        return that_count(here, made, lambda one, several: (not one.stage.is_invalid, several))

    @property
    def networks(self) -> tuple[FinishedStage, ...]:
        """Stages that made a network on this machine."""
        found = (stage for stage in self.stages if stage.report.output and stage.report.cost)
        return tuple(stage for stage in found if stage.report.stage != BOARD_STAGE)

    def copies(self, sha256: str) -> list[str]:
        """`NN-stage/file` of every stage that made this content, in order: for most one."""
        made = (stage for stage in self.stages if stage.report.output and stage.report.output.sha256 == sha256)
        return [f"{stage.name}/{name_of(stage)}" for stage in made]

    def unchanged(self, sha256: str) -> list[str]:
        """Of several copies those without a file that was changed since."""
        copies = self.copies(sha256)
        return [one for one in copies if len(copies) == 1 or state_of(self.path / one, sha256) != "changed"]

    def name_of(self, file: FileRef) -> str | None:
        """The one of its copies that was taken, as the report that took it says; None for none of the run."""
        copies = self.copies(file.sha256)
        return next((one for one in copies if Path(file.path).parts[-2:] == Path(one).parts), next(iter(copies), None))

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
    replaced = replaced_in([(stage.path, stage.report) for stage in stages])
    problems += [
        left_out([one for one in replaced if replaced[one] == new], new) for new in dict.fromkeys(replaced.values())
    ]
    stages = [one for one in stages if one.name not in replaced]
    strays = _strays_in(path, stages)
    problems += [f"{one.name}: {STRAY}: run it again, or remove its folder" for one in strays]
    kept = tuple(one for one in stages if one not in strays)
    begun = begins_another([(stage.path, stage.report) for stage in kept])
    return RunFolder(path, kept, (*problems, *begun, *_never_exported(kept)))


def _never_exported(stages: Iterable[FinishedStage]) -> Iterator[str]:
    """A line for each checkpoint that files made after it lack, because no export followed it."""
    made = [(stage.path, stage.report) for stage in stages]
    lacking: dict[Path, list[str]] = {}
    for place, (path, report) in enumerate(made):
        known = [one for at, one in enumerate(made) if at < place or one[1].stage == "export"]
        if report.source and report.cost and (newer := never_exported(report.source.sha256, known)):
            lacking.setdefault(newer, []).append(path.name)
    return (without_newer(newer, ", ".join(names)) for newer, names in lacking.items())


def _strays_in(run: Path, stages: Iterable[FinishedStage]) -> list[FinishedStage]:
    """Stages of a file that the run held, under the folder that holds another now, and all that came of them."""
    outputs = {one.name: one.report.output for one in stages}
    strays: list[FinishedStage] = []
    held, lost = set[str](), set[str]()
    for stage in stages:
        source, output = stage.report.source, stage.report.output
        is_stray = (
            source is not None
            and source.sha256 not in held
            and (source.sha256 in lost or _is_replaced(source, outputs, run))
        )
        if is_stray:
            strays.append(stage)
        if output:
            (lost if is_stray else held).add(output.sha256)
    return strays


def _is_replaced(source: FileRef, outputs: Mapping[str, FileRef | None], run: Path) -> bool:
    """Whether `edgeres run` made the stage of the run that had made the file anew since, or began to."""
    path = Path(source.path)
    if path.parent.parent.name != run.resolve().name:
        return False
    if path.parent.name not in outputs:
        aside = run.glob(f"{glob.escape(path.parent.name)}.old*/{REPORT_NAME}")
        return any(source.sha256 in one.read_text(encoding="utf-8", errors="replace") for one in aside)
    now = outputs[path.parent.name]
    return now is not None and Path(now.path).name == path.name and now.sha256 != source.sha256


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


def state_of(file: Path, sha256: str, copies: Iterable[str] = ()) -> str:
    """`here` with that content still, or gone where one of its copies in the run has it; `missing` or `changed`."""
    for one in [file] if file.is_file() else [file.parent.parent / copy for copy in copies]:
        with suppress(InputError):
            if sha256_of(one) == sha256:
                return "here"
    return "changed" if file.is_file() else "missing"


def taken(file: A, stage: str) -> A:
    """`file`; warns where it is not the one that the report in its folder, or beside it, speaks of."""
    path = Path(os.path.realpath(file.path))
    for place in (path.with_name(REPORT_NAME), path.with_name(path.name + REPORT_SUFFIX)):
        with suppress(EdgeresError):
            report = record_from_json(StageReport, place)
            if report.output and Path(report.output.path).name == path.name and report.output.sha256 != file.sha256:
                said = f"{file.path}: {LOST['changed']}; {stage} goes on with it as it is"
                again = command_of(FinishedStage(path.parent, report, None), ())
                log.warning("warning: %s; to make that one again: %s", said, again)
    return file


def _stage_from(folder: StageFolder, problems: list[str]) -> FinishedStage | None:
    if not folder.is_finished:
        problems.append(f"{folder.path.name}: unfinished (no report.json){_how_far(folder)}")
        return None
    report, evaluation = (_read(folder.path / name, problems) for name in (REPORT_NAME, EVAL_NAME))
    return FinishedStage(folder.path, report, evaluation) if report else None


def _how_far(folder: StageFolder) -> str:
    if folder.is_busy:
        return "; another process is at work on it"
    return f"; {BEGUN}" if (folder.path / STARTED_NAME).is_file() else ""


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


class FileLine(Figure):
    """One file. `state`: here (made again too), missing or changed since its report; `made_from` names the parent."""

    path: str
    stage: str
    size_bytes: int
    sha256: str
    parent: str | None
    made_from: str
    state: str
    command: str


def command_of(stage: FinishedStage, stages: Iterable[FinishedStage]) -> str:
    """What to type to get the stage's result again, every option that was set; `stages` are the run's.

    What a board timed together is timed together again.
    """
    report = stage.report
    paths = [report.source.path] if report.source else []
    if report.stage == "bench":
        return command_from("bench", {"run": Run(stage.path.parent).called, **report.config})
    if report.stage != BOARD_STAGE:
        return command_from(report.stage, report.config, *paths, on=str(report.results.get("on") or ""))
    board = report.results.get("board")
    on = str(board.get("name") or "") if isinstance(board, dict) else ""
    if not report.latency:
        judging = EvalConfig.model_fields.keys() | {"timeout_s"}
        return command_from("eval", {k: v for k, v in report.config.items() if k in judging}, *paths, on=on)
    same = (one.report for one in stages if [x.session for x in one.report.latency] == [report.latency[0].session])
    together = [one.source.path for one in same if one.stage == BOARD_STAGE and one.source]
    return command_from("bench", report.config, *together, on=on)


def command_from(stage: str, config: dict[str, Any], *sources: str, on: str = "") -> str:
    """`edgeres STAGE [SOURCE ...] --option value ... [--on BOARD]`; options that are not set are left out."""
    name = f"study {stage}" if stage in STUDIES else _COMMANDS.get(stage, stage)
    argument = config.get(_ARGUMENTS.get(stage, ""))
    words = [str(word) for word in (argument, *sources) if word not in NOT_SET]
    options = {key: value for key, value in config.items() if key not in {_ARGUMENTS.get(stage), *Config.incidental}}
    return " ".join(["edgeres", name, *map(shlex.quote, words), *words_of({**options, "on": on})])


def name_of(stage: FinishedStage) -> str:
    """Of the file that it made; empty where it made none."""
    return Path(stage.report.output.path).name if stage.report.output else ""
