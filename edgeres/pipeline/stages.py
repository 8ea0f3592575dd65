"""The table of stages, how one is run, and what it takes of the run where nothing is named.

A stage is a function `(source, config, out_dir) -> StageResult`. Its key is

    sha256(stage, edgeres version, source's sha256, config, and the machine and its packages where they matter)

where a file the config names counts by its sha256, a folder of images by what lies in it, a function by its name and
its module's file (not what that imports), and options that change nothing in the result do not count,

and a finished stage with the same key need not run again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple

import edgeres
from edgeres.core.artifacts import (
    FUSED_PROFILE,
    Artifact,
    Checkpoint,
    Engine,
    FrontierFile,
    LatencyTableFile,
    LesionTableFile,
    Model,
    OnnxModel,
    ScaleTableFile,
    StudyFile,
    SweepFile,
)
from edgeres.core.config import Config
from edgeres.core.environment import environment
from edgeres.core.errors import AlwaysRefused, InputError
from edgeres.core.files import clear_left_overs, set_aside, sha256_of
from edgeres.core.lineage import for_a_cpu, line_of, parents_of, teacher_of
from edgeres.core.names import resolve, with_code
from edgeres.core.processes import together
from edgeres.core.runs import STARTED_NAME, Run, StageFolder, mark_started
from edgeres.core.stage import REPORT_NAME, StageReport, StageResult, write_report
from edgeres.data import data_fingerprint
from edgeres.report.folder import taken

log = logging.getLogger(__name__)
Made = tuple[StageFolder, StageReport]
Function = Callable[[Any, Any, Path], StageResult[Artifact]]


class Stage(NamedTuple):
    """One row of STAGES: `config` and `function` are names within edgeres, so is what does a call of it `on_board`.

    `fills` are config fields taken from the run when they are not given.
    """

    source: type[Model] | None
    output: type[Artifact]
    config: str
    function: str
    fills: tuple[str, ...] = ()
    float_only: bool = False
    on_board: str = ""

    def config_class(self) -> type[Config]:
        """The stage's Config."""
        kind: type[Config] = resolve(f"edgeres.{self.config}")
        return kind

    def accepts(self, model: Model) -> bool:
        """Whether the stage can work on `model`."""
        if self.source is None or not isinstance(model, self.source):
            return False
        return not (self.float_only and "int8" in model.precision)

    def suits(self, model: Model) -> bool:
        """Whether it takes `model` where none is named: half precision, or INT8 for a CPU, is an end of the road."""
        return self.accepts(model) and self.takes(model.precision, getattr(model, "profile", None))

    def takes(self, precision: str | None, profile: object) -> bool:
        """Whether a network of this precision, quantized for this profile, can be gone on from."""
        return (not self.float_only or precision == "fp32") and (self.output is not Engine or profile != FUSED_PROFILE)

    @property
    def needs(self) -> str:
        """The source in words."""
        suffix = self.source.suffix if self.source else ""
        return f"float32 {suffix} file" if self.float_only else f"{suffix} file"


STAGES = {
    "train": Stage(None, Checkpoint, "train.config:TrainConfig", "train.stage:train"),
    "import": Stage(None, Checkpoint, "models.importing:ImportConfig", "models.importing:import_checkpoint"),
    "lesion": Stage(Checkpoint, LesionTableFile, "study.config:LesionConfig", "study.lesion:lesion"),
    "reorder": Stage(Checkpoint, StudyFile, "study.config:ReorderConfig", "study.reorder:reorder"),
    "paths": Stage(Checkpoint, StudyFile, "study.config:PathsConfig", "study.paths:paths"),
    "gradients": Stage(None, StudyFile, "study.config:GradientsConfig", "study.gradients:gradients"),
    "depth": Stage(None, StudyFile, "study.config:DepthConfig", "study.depth:depth"),
    "ordering": Stage(None, StudyFile, "study.config:OrderingConfig", "study.ordering:ordering"),
    "connect": Stage(None, StudyFile, "study.config:ConnectConfig", "study.connect:connect"),
    "latency": Stage(
        Checkpoint,
        LatencyTableFile,
        "core.records.latency:LatencyConfig",
        "costs.stage:latency_table",
        on_board="pipeline.board_stages:module_costs_on_board",
    ),
    "prune": Stage(Checkpoint, Checkpoint, "prune.config:PruneConfig", "prune.stage:prune", fills=("latency",)),
    "sweep": Stage(Checkpoint, SweepFile, "prune.config:SweepConfig", "prune.sweep:sweep"),
    "recover": Stage(
        Checkpoint, Checkpoint, "prune.config:RecoverConfig", "prune.recover.stage:recover", fills=("teacher",)
    ),
    "export": Stage(Checkpoint, OnnxModel, "export.stage:ExportConfig", "export.stage:export"),
    "calibrate": Stage(
        OnnxModel, ScaleTableFile, "quantize.config:CalibrateConfig", "quantize.calibrate:calibrate", float_only=True
    ),
    "quantize": Stage(
        OnnxModel,
        OnnxModel,
        "quantize.config:QuantizeConfig",
        "quantize.stage:quantize",
        fills=("scales", "latency"),
        float_only=True,
    ),
    "qat": Stage(
        OnnxModel, OnnxModel, "quantize.config:QatConfig", "quantize.qat:qat", fills=("scales",), float_only=True
    ),
    "optimize": Stage(
        Checkpoint,
        FrontierFile,
        "optimize.config:OptimizeConfig",
        "optimize.stage:optimize",
        on_board="optimize.calls:optimize_on_board",
    ),
    "compile": Stage(
        OnnxModel,
        Engine,
        "compile.stage:CompileConfig",
        "compile.stage:compile_engine",
        on_board="pipeline.board_stages:compile_on_board",
    ),
}


_TOGETHER = {"train", "gradients", "depth", "ordering", "connect"}  # done by all processes; others share parts
_OF_THIS_MACHINE = {"compile", "eval", "bench", "latency", "sweep", "optimize"}


def makers_of(stage: str) -> list[str]:
    """The stages that make the kind of file it takes from another kind, or from none."""
    kind = STAGES[stage].source
    return [name for name, row in STAGES.items() if row.output is kind and row.source is not kind]


def stage_key(stage: str, source: Artifact | None, config: Config) -> str:
    """What the result of a stage depends on, as one hash."""
    counted = sorted(config.counted().items())
    values = {name: _identity(name, value) for name, value in counted if name not in config.incidental}
    parts: list[object] = [stage, edgeres.__version__, source.sha256 if source else None, values]
    if stage in _OF_THIS_MACHINE:
        here = environment()
        parts += [here.machine, here.packages]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _identity(name: str, value: object) -> str:
    if isinstance(value, Path) and value.is_file():
        return sha256_of(value)
    return data_fingerprint(value) if name == "data" and isinstance(value, str) else with_code(str(value))


def execute(
    stage: str, source: Artifact | None, config: Config, folder: Path, key: str, *, by: Function | None = None
) -> StageResult[Artifact]:
    """Runs one stage in `folder`, by its own function or another, and writes its report there.

    An interrupted call leaves `key` in started.json, one that is AlwaysRefused nothing of what it began. The report's
    duration is that of all calls which worked on what is there.
    """
    is_first = not folder.is_dir() or {path.name for path in folder.iterdir()} <= {STARTED_NAME}
    clear_left_overs(folder)
    mark_started(folder, stage, key)
    try:
        result = (by or function_of(stage))(source, config, folder)
    except Exception as err:
        if is_first and isinstance(err, AlwaysRefused):
            shutil.rmtree(folder)
        leave_no_trace(folder)
        raise
    took_s = round(result.report.duration_s + StageFolder(folder, 0, stage).spent_s, 3)
    result = StageResult(result.output, result.report.model_copy(update={"key": key, "duration_s": took_s}))
    write_report(result.report, folder / REPORT_NAME)
    (folder / STARTED_NAME).unlink(missing_ok=True)
    return result


def function_of(stage: str) -> Function:
    """What does the stage here, by all processes where it is done by all."""
    function: Function = resolve(f"edgeres.{STAGES[stage].function}")
    return together(function) if stage in _TOGETHER else function


def leave_no_trace(folder: Path) -> None:
    """Removes the folder of a call that did not finish, unless it made something that can be resumed."""
    if folder.is_dir() and [path.name for path in folder.iterdir()] == [STARTED_NAME]:
        (folder / STARTED_NAME).unlink()
        folder.rmdir()


@contextmanager
def in_the_place_of(*paths: Path) -> Iterator[None]:
    """Sets aside what another call made, for the `with`; back it comes if nothing is made that can be gone on from."""
    moved = set_aside(*paths)
    try:
        yield
    except BaseException:
        for path, aside in moved.items():
            leave_no_trace(path)
            if not path.is_dir():
                aside.replace(path)
                log.warning("warning: %s is again what it was before this call, which made nothing in its place", path)
        raise


def source_in(run: Run, stage: str) -> Model | None:
    """The newest model of `run` the stage can work on, None if it needs none; raises InputError if there is none."""
    row = STAGES[stage]
    if row.source is None:
        return None
    model = newest_in(run, row.suits, stage)
    if row.output is Engine:
        say_left_out(run, stage)
    if model is None:
        gone = "".join(f"; that of {name} is gone" for name in _gone(run, -1, row.source.suffix))
        named = (f"{name}{' FILE' * (name == 'import')}" for name in makers_of(stage))
        how = " or ".join(f"edgeres {name} --run {run.typed}" for name in named)
        raise InputError(f"{run.path} holds no {row.needs} for `edgeres {stage}`; name one, or make it: {how}{gone}")
    return model


def say_left_out(run: Run, stage: str) -> None:
    """One line where the newest quantized file of `run` is none that a `stage` for TensorRT takes."""
    files = [model for _, model in run.models() if isinstance(model, OnnxModel) and "int8" in model.precision]
    if files and (said := for_a_cpu(files[-1])):
        log.info("%s: leaves out %s, %s", stage, files[-1].path, said)


def newest_in(run: Run, accepts: Callable[[Model], bool], stage: str) -> Model | None:
    """The newest model of `run` that `stage` accepts; says what it leaves out.

    That is an export of a network from which a newer one was cut or trained before: it was made to be held against.
    Warns of later ones that did not finish or are gone.
    """
    accepted = [pair for pair in run.models() if accepts(pair[1])]
    if not accepted:
        return None
    earlier = _exports_of_earlier(run)
    found = next((pair for pair in reversed(accepted) if pair[0].index not in earlier), accepted[-1])
    if accepted[-1] != found:
        log.info("%s: leaves out %s, of an earlier network of the run", stage, accepted[-1][1].path)
    makers = {name for name, row in STAGES.items() if issubclass(row.output, Model)} - {stage}
    later = [one for one in run.folders() if one.index > found[0].index and one.stage in makers and not one.is_finished]
    if left := [one.path.name for one in later if not one.is_busy]:
        log.warning(
            "warning: %s did not finish, so %s takes what was there before; go on with it by the same command as then",
            " and ".join(left),
            stage,
        )
    if gone := _gone(run, found[0].index, found[1].path.suffix):
        log.warning("warning: what %s made is gone, so %s takes what was there before", " and ".join(gone), stage)
    return taken(found[1], stage)


def _exports_of_earlier(run: Run) -> set[int]:
    """Numbers of the exports of a checkpoint after the newest one had been made from it."""
    found, parents, newest = set[int](), dict[str, str | None](), ""
    for folder, report in run.reports():
        source = report.source.sha256 if report.source else None
        if report.output and report.output.path.endswith(Checkpoint.suffix):
            newest = report.output.sha256
            parents.setdefault(newest, source)
        elif report.stage == "export" and source in line_of(parents.get(newest), parents):
            found.add(folder.index)
    return found


def _gone(run: Run, after: int, suffix: str) -> list[str]:
    """Names of the stages behind number `after` whose file of this kind is no longer there."""
    made = ((folder, report.output) for folder, report in run.reports() if folder.index > after and report.output)
    return [one.path.name for one, file in made if file.path.endswith(suffix) and one.model() is None]


def filled(stage: str, config: Config, source: Model | None, made: Sequence[Made]) -> Config:
    """`config` with the fields the stage takes from what was `made` before: scales of `source`, its teacher, ...

    Says which newer table it passes over, that was made for another network.
    """
    if source is None:
        return config
    found: dict[str, Path | None] = {}
    for name in (name for name in STAGES[stage].fills if getattr(config, name) is None):
        if name == "scales":
            found[name] = _newest("calibrate", {source.sha256}, made, stage)
        elif name == "latency":
            line = {source.sha256, *(parent.sha256 for parent in parents_of(source.path, source.sha256))}
            found[name] = _newest("latency", line, made, stage)
        else:
            with nullcontext() if getattr(config, "imitates", False) else suppress(InputError):
                found[name] = teacher_of(source)
    return config.model_copy(update=found)


def _newest(maker: str, sources: set[str], made: Sequence[Made], stage: str) -> Path | None:
    """What `maker` made last of one of `sources`, told by their sha256; says which newer one `stage` leaves out."""
    tables = [
        (folder.path / Path(report.output.path).name, report.source)
        for folder, report in reversed(made)
        if folder.stage == maker and report.output and report.source
    ]
    found = next((path for path, source in tables if source.sha256 in sources), None)
    if found is not None and found != tables[0][0]:
        log.info("%s: leaves out %s, made for %s", stage, tables[0][0], tables[0][1].path)
    return found and taken(Artifact(found), stage).path
