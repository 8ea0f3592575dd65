"""Running a recipe in a run folder: finished steps are reused, everything else goes on where it stopped."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edgeres.core.artifacts import Model
from edgeres.core.errors import EdgeresError, InputError
from edgeres.core.files import write_text
from edgeres.core.runs import RECIPE_NAME, Run, StageFolder, runs_root
from edgeres.core.stage import StageReport
from edgeres.pipeline import measures
from edgeres.pipeline.recipe import Recipe, Step, toml_text
from edgeres.pipeline.stages import STAGES, execute, filled, stage_key

if TYPE_CHECKING:
    from edgeres.report.summary import RunSummary

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Done:
    """One step that is finished."""

    step: Step
    where: Path
    reports: tuple[StageReport, ...]
    reused: bool
    summary: RunSummary | None = None


@dataclass
class Chain:
    """A recipe at work. `redo_from` is the index from which finished steps are not reused."""

    run: Run
    steps: list[Step]
    redo_from: int | None = None
    _made: list[tuple[StageFolder, Model]] = field(default_factory=list)

    def execute(self) -> Iterator[Done]:
        """Runs the steps in order and yields each when it is done."""
        self.run.path.mkdir(parents=True, exist_ok=True)
        self.run.make_latest()
        for step in self.steps:
            yield self._stage(step) if step.use in STAGES else self._measure(step)

    def _stage(self, step: Step) -> Done:
        source = self._source(step)
        config = filled(step.use, step.config, self.run)
        key = stage_key(step.use, source, config)
        folder = StageFolder(self.run.path / step.folder_name, step.index, step.use)
        report = self._reusable(step, folder, key)
        if reused := report is not None:
            log.info("%s: done already, reused", folder.path)
        else:
            _refuse_if_busy(folder)
            _set_aside_other(folder, key)
            report = execute(step.use, source, config, folder.path, key).report
        if model := folder.model():
            self._made.append((folder, model))
        assert report is not None
        return Done(step, folder.path, (report,), reused)

    def _source(self, step: Step) -> Model | None:
        row = STAGES[step.use]
        if row.source is None:
            return None
        for _, model in reversed(self._made):
            if row.accepts(model):
                return model
        raise InputError(f"`{step.use}` finds no {row.needs} among what the recipe has made")

    def _reusable(self, step: Step, folder: StageFolder, key: str) -> StageReport | None:
        if not folder.is_finished or (self.redo_from is not None and step.index >= self.redo_from):
            return None
        try:
            report, model = folder.report(), folder.model()
            intact = report.output is None or model is None or model.sha256 == report.output.sha256
            missing = report.output is not None and not (folder.path / Path(report.output.path).name).is_file()
        except EdgeresError:
            return None
        return report if report.key == key and intact and not missing else None

    def _measure(self, step: Step) -> Done:
        fresh = self.redo_from is not None and step.index >= self.redo_from
        if step.use == "eval":
            outcome = measures.evaluate_models(self._made, step.config, fresh=fresh)
            return Done(step, self.run.path, *outcome)
        if step.use == "bench":
            folder = StageFolder(self.run.path / step.folder_name, step.index, "bench")
            outcome = measures.bench_models(self._made, step.config, folder, fresh=fresh)
            return Done(step, folder.path, *outcome)
        return Done(step, self.run.path, (), False, measures.write_run_report(self.run, step.config))


def redo_index(steps: list[Step], use: str) -> int:
    """The index of the first step called `use`; raises InputError if there is none."""
    for step in steps:
        if step.use == use:
            return step.index
    raise InputError(f"--from {use}: the recipe has no such stage (it has {', '.join(s.use for s in steps)})")


def run_of_recipe(recipe: Recipe, name: str | None) -> Run:
    """The run folder of the recipe: the same name goes on in the same folder."""
    run = Run(runs_root() / (name or recipe.name))
    write_text(run.path / RECIPE_NAME, toml_text(recipe))
    return run


def _refuse_if_busy(folder: StageFolder) -> None:
    if folder.is_busy:
        raise InputError(f"another edgeres is at work in {folder.path}; wait for it, or choose another --name")


def _set_aside_other(folder: StageFolder, key: str) -> None:
    """Moves a folder that belongs to another call out of the way; nothing is deleted."""
    is_resumable = not folder.is_finished and folder.started_key in {key, None}
    if is_resumable or not folder.path.exists():
        return
    number = 1
    while (aside := folder.path.with_name(f"{folder.path.name}.old{number}")).exists():
        number += 1
    folder.path.rename(aside)
    log.info("%s belongs to another call: kept as %s", folder.path, aside.name)
