"""Where every file of a run comes from: its hash, its parent, and the command that makes it again."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from edgeres.core.config import NOT_SET, Config, words_of
from edgeres.evaluate.stage import EvalConfig
from edgeres.report.folder import BOARD_STAGE, Figure, FinishedStage, RunFolder, output_state

_ARGUMENTS = {"train": "arch", "import": "file"}  # what a command takes without a name
_COMMANDS = {"latency": "bench --per-module", "sweep": "prune"}  # where it is not called as the stage
STUDIES = frozenset({"reorder", "paths", "gradients", "depth", "ordering", "connect"})
_GONE = {"missing": "the file is gone", "changed": "not the file its report speaks of (another sha256)"}


class FileLine(Figure):
    """One file. `state`: here, missing or changed since its report was written; `made_from` names the parent."""

    path: str
    stage: str
    size_bytes: int
    sha256: str
    parent: str | None
    made_from: str
    state: str
    command: str


def lineage_of(folder: RunFolder) -> tuple[tuple[FileLine, ...], tuple[str, ...]]:
    """Every file that a stage's report names, in order, and what is gone or changed."""
    names = {one.report.output.sha256: f"{one.name}/{_name(one)}" for one in folder.stages if one.report.output}
    files = tuple(_line(stage, names, folder.stages) for stage in folder.stages if stage.report.output)
    again = "the figures are those of its report; make it again with the command under Lineage"
    return files, tuple(f"{file.path}: {_GONE[file.state]}, {again}" for file in files if file.state in _GONE)


def command_of(stage: FinishedStage, stages: Iterable[FinishedStage]) -> str:
    """What to type to get the stage's result again, every option spelled out; `stages` are the run's.

    What a board timed together is timed together again.
    """
    report = stage.report
    paths = [report.source.path] if report.source else []
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


def _line(stage: FinishedStage, names: dict[str, str], stages: Iterable[FinishedStage]) -> FileLine:
    report, output = stage.report, stage.report.output
    assert output is not None
    parent = report.source.sha256 if report.source else None
    outside = report.source.path if report.source else ""
    return FileLine(
        path=f"{stage.name}/{_name(stage)}",
        stage=report.stage,
        size_bytes=output.size_bytes,
        sha256=output.sha256,
        parent=parent,
        made_from=names.get(parent or "", outside),
        state=output_state(stage),
        command=command_of(stage, stages),
    )


def _name(stage: FinishedStage) -> str:
    return Path(stage.report.output.path).name if stage.report.output else ""
