"""Running a recipe in a run folder: finished steps are reused, everything else goes on where it stopped."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast

from edgeres.bench.boards import board_named
from edgeres.bench.config import BUILD_TIMEOUT_S
from edgeres.compile.config import CompileConfig
from edgeres.core.artifacts import Checkpoint, Engine, Model
from edgeres.core.config import Config, config_from, record_from_json, toml_from
from edgeres.core.errors import EdgeresError, InputError, did_you_mean
from edgeres.core.files import made_folder, scratch_in, set_aside, sha256_of, write_text
from edgeres.core.progress import text_from
from edgeres.core.runs import EVAL_NAME, RECIPE_NAME, Run, StageFolder, runs_root
from edgeres.core.stage import REPORT_NAME, StageReport
from edgeres.data import dataset_from
from edgeres.models import network_from
from edgeres.pipeline import eval_bench
from edgeres.pipeline.board_calls import board_of_run
from edgeres.pipeline.board_stages import compiling_on
from edgeres.pipeline.calls import Call
from edgeres.pipeline.recipe import Recipe, Step, check_modules, planned, telling, toml_text
from edgeres.pipeline.stages import STAGES, Function, Made, execute, filled, in_the_place_of, stage_key
from edgeres.prune.config import ChoiceConfig, RecoverConfig
from edgeres.report.stage import ReportConfig
from edgeres.report.stage import report as report_on
from edgeres.report.summary import RunSummary
from edgeres.train.config import TrainConfig

log = logging.getLogger(__name__)


class Done(NamedTuple):
    """One step that is finished."""

    step: Step
    where: Path
    reports: tuple[StageReport, ...]
    reused: bool
    summary: RunSummary | None = None


@dataclass
class Chain:
    """A recipe at work. `redo_from` is the index from which finished steps are not reused.

    `recorded`: of a run that is made again, a step's folder -> what its report said, where the clock had a say.
    """

    run: Run
    steps: list[Step]
    redo_from: int | None = None
    recorded: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    _models: list[tuple[StageFolder, Model]] = field(default_factory=list)
    _made: list[Made] = field(default_factory=list)

    def execute(self) -> Iterator[Done]:
        """Runs the steps in order and yields each when it is done."""
        made_folder(self.run.path)
        is_within = self.run.path.parent != runs_root()  # another run's
        if not is_within:
            self.run.make_latest()
        like, took_s = ("", {}) if is_within else _took_before(self.run, self.steps)
        anew_from = len(self.steps) if self.redo_from is None else self.redo_from
        for step in self.steps:
            left_s = sum(
                spent_s
                for (at, name), spent_s in took_s.items()
                if at >= step.index and (at >= anew_from or not (self.run.path / name).is_file())
            )
            left = f"; about {text_from(left_s)} left, as {like} took" if left_s else ""
            log.info("step %d of %d: %s%s", step.index + 1, len(self.steps), step.use, left)
            done = self._stage(step) if step.use in STAGES else self._measure(step)
            anew_from = anew_from if done.reused or step.use not in STAGES else min(anew_from, step.index)
            yield done

    def _stage(self, step: Step) -> Done:
        source = self._source(step)
        config = filled(step.use, step.config, source, self._made)
        key, by = stage_key(step.use, source, config), cast(Function | None, None)
        if step.on and isinstance(config, CompileConfig) and source is not None:
            key, by = compiling_on(board_named(step.on), source, config, BUILD_TIMEOUT_S)
        folder = StageFolder(self.run.path / step.folder_name, step.index, step.use)
        if isinstance(config, RecoverConfig | ChoiceConfig) and step.folder_name in self.recorded:
            config = config.following(self.recorded[step.folder_name])
        report = self._reusable(step, folder, key)
        if reused := report is not None:
            log.info("%s: done already, reused", folder.path)
        else:
            _refuse_if_busy(folder)
            if isinstance(config, TrainConfig) and (ahead := self._budgets_behind(step)):
                with scratch_in(self.run.path) as scratch:
                    untrained = _untrained(config, scratch / "untrained.safetensors")
                    for later in ahead:
                        _check_budget(untrained, *later)
            is_others = folder.path.exists() and (folder.is_finished or folder.started_key not in {key, None})
            with in_the_place_of(folder.path) if is_others else nullcontext():
                report = execute(step.use, source, config, folder.path, key, by=by).report
        assert report is not None
        self._made.append((folder, report))
        if model := folder.model():
            self._models.append((folder, model))
        if isinstance(model, Checkpoint) and step.use == "import":
            check_modules(self.steps[step.index + 1 :], str(self.run.path), model.spec)
            for later in self._budgets_behind(step):
                _check_budget(model, *later)
        return Done(step, folder.path, (report,), reused)

    def _budgets_behind(self, step: Step) -> list[tuple[Step, RecoverConfig]]:
        """The steps behind `step` that are still to recover for so long, on no record, and how."""
        found = []
        for later in self.steps[step.index + 1 :]:
            config = later.config.recovery() if isinstance(later.config, ChoiceConfig) else later.config
            is_done = later.folder_name in self.recorded or (self.run.path / later.folder_name).exists()
            if isinstance(config, RecoverConfig) and config.budget is not None and not is_done:
                found.append((later, config))
        return found

    def _source(self, step: Step) -> Model | None:
        row = STAGES[step.use]
        if row.source is None:
            return None
        for _, model in reversed(self._models):
            if row.suits(model):
                return model
        raise InputError(f"`{step.use}` finds no {row.needs} among what the recipe has made")

    def _reusable(self, step: Step, folder: StageFolder, key: str) -> StageReport | None:
        if not folder.is_finished or (self.redo_from is not None and step.index >= self.redo_from):
            return None
        try:
            report = folder.report()
            return report if report.key == key and _is_intact(folder, report) else None
        except EdgeresError:
            return None

    def _measure(self, step: Step) -> Done:
        fresh = self.redo_from is not None and step.index >= self.redo_from
        if step.on:
            before, values = self.run.finished(), step.config.model_dump(exclude_unset=True)
            reports = tuple(board_of_run(self.run, Call(step.use, values=values, on=step.on), fresh=fresh))
            return Done(step, self.run.path, reports, self.run.finished() == before)
        if step.use == "eval":
            return Done(step, self.run.path, *eval_bench.evaluate_models(self._models, step.config, fresh=fresh))
        if step.use == "bench":
            folder = self.run.path / step.folder_name
            return Done(step, folder, *eval_bench.bench_models(self._models, step.config, folder, fresh=fresh))
        return Done(step, self.run.path, (), False, report_on(self.run.path, cast(ReportConfig, step.config)))


def _check_budget(network: Checkpoint, step: Step, config: RecoverConfig) -> None:
    """Raises InputError that names the step if its budget is too short for `network`, or what is left of it."""
    from edgeres.prune.recover.stage import check_budget

    with telling(step.told):
        check_budget(network, config)


def _untrained(config: TrainConfig, path: Path) -> Checkpoint:
    """The network that training will begin with, at `path`: it takes as long as the trained one."""
    from edgeres.models.weights import save_checkpoint
    from edgeres.train.stage import spec_on

    dataset = dataset_from(config.data, download=config.download)
    spec = spec_on(dataset, config.arch, config.options, config.image_size)
    return save_checkpoint(network_from(spec).state_dict(), spec, path, stage="train")


def _took_before(run: Run, steps: Sequence[Step]) -> tuple[str, dict[tuple[int, Path], float]]:
    """(the newest other run of the same recipe, seconds there by step and report); none without one."""
    others = [path for path in runs_root().iterdir() if path != run.path and (path / RECIPE_NAME).is_file()]
    for path in sorted(others, key=lambda path: path.stat().st_mtime, reverse=True):
        if not path.is_symlink() and _recipe_text(path) == _recipe_text(run.path):
            took_s = {}
            for index, name in [(step.index, name) for step in steps for name in _reports_of(step, steps)]:
                with suppress(EdgeresError):
                    took_s[index, name] = record_from_json(StageReport, path / name).duration_s
            return str(path), took_s
    return "", {}


def _reports_of(step: Step, steps: Sequence[Step]) -> list[Path]:
    """Of an `eval` those of what is not judged yet, as the one before it judged, if that had the same options."""
    if step.use != "eval" or step.on:
        return [Path(step.folder_name, REPORT_NAME)]
    before = next((one for one in reversed(steps[: step.index]) if one.use == "eval" and not one.on), None)
    since = before.index if before is not None and before.config == step.config else 0
    return [Path(one.folder_name, EVAL_NAME) for one in steps[since : step.index]]


def _recipe_text(run: Path) -> str:
    """The recipe but for its name."""
    with suppress(OSError, ValueError):
        lines = (run / RECIPE_NAME).read_text(encoding="utf-8").splitlines()
        return "\n".join(line for line in lines if not line.startswith("name = "))
    return ""


def redo_index(steps: list[Step], named: str) -> int:
    """The index of the first step called so, by its stage or its folder, which is said; raises InputError for none."""
    found = [step for step in steps if named in {step.use, step.folder_name}]
    if not found:
        uses = [step.use for step in steps]
        hint = did_you_mean(named, [*uses, *(step.folder_name for step in steps)])
        raise InputError(f"--from {named}: the recipe has no such stage{hint} (it has {', '.join(uses)})")
    others = "".join(f"; from the next on: --from {step.folder_name}" for step in found[1:2])
    log.info("--from %s: %s and all that follows runs again%s", named, found[0].folder_name, others)
    return found[0].index


def run_of_recipe(recipe: Recipe, name: str | None) -> Run:
    """The run folder of the recipe: the same name goes on in the same folder.

    Stages of the recipe as it was before that are no longer in it are set aside, so that they are in no report.
    """
    if name is not None:
        recipe = config_from(Recipe, {**recipe.model_dump(), "name": name}, "--name")
    run = Run(runs_root() / recipe.name)
    made_folder(run.path, f"{run.path} (a run; $EDGERES_RUNS says where else)")
    steps = planned(recipe, recipe.name)
    before = _planned_folders(run.path / RECIPE_NAME) - {step.folder_name for step in steps}
    for folder in run.folders():
        if folder.path.name in before:
            _refuse_if_busy(folder)
            set_aside(folder.path)
    write_text(run.path / RECIPE_NAME, toml_text(recipe, steps))
    return run


def _is_intact(folder: StageFolder, report: StageReport) -> bool:
    """Whether what the stage wrote is there, unchanged; raises EdgeresError if it cannot be read."""
    if report.output is None:
        return True
    if sha256_of(folder.path / Path(report.output.path).name) != report.output.sha256:
        return False
    model = folder.model()
    return not isinstance(model, Engine) or model.manifest.plan_sha256 == model.sha256


def _refuse_if_busy(folder: StageFolder) -> None:
    if folder.is_busy:
        raise InputError(f"another edgeres is at work in {folder.path}; wait for it, or choose another --name")


def _planned_folders(path: Path) -> set[str]:
    """Folder names of the stages in a recipe written by an earlier run; none if it cannot be read."""
    try:
        entries = config_from(Recipe, toml_from(path), str(path)).stage
    except EdgeresError:
        return set()
    return {Step(index, str(entry.get("use")), Config()).folder_name for index, entry in enumerate(entries)}
