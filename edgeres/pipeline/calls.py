"""One stage called by itself: finds its source and its run when they are not named, and says which it took."""

from __future__ import annotations

import glob
import logging
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgeres.core.amounts import counted
from edgeres.core.artifacts import Artifact, Checkpoint, Model, OnnxModel, StudyFile, model_from
from edgeres.core.config import Config, config_from, refuse_needless
from edgeres.core.errors import InputError, few_of, require
from edgeres.core.names import is_function_name, resolve
from edgeres.core.runs import Run, new_run, run_holding, run_named, run_of_shell, runs_root
from edgeres.core.safe_text import typed
from edgeres.core.stage import StageResult, begins_another, brought_anew, left_out, never_exported, without_newer
from edgeres.pipeline.outside import check_out, folder_beside, leave_or_say_where, moved_out
from edgeres.pipeline.stages import STAGES, Function, execute, filled, function_of, leave_no_trace, source_in, stage_key
from edgeres.report.folder import taken

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Call:
    """What the user typed: the source (None: the newest suitable one), the run, `out`, and the stage's options.

    `on` names the board that does it, empty for this machine.
    """

    stage: str
    source: Path | None = None
    run: str | None = None
    out: Path | None = None
    values: dict[str, Any] = field(default_factory=dict)
    on: str = ""


def call(request: Call) -> StageResult[Artifact]:
    """Runs the stage, here or on a board; raises InputError if there is nothing to work on or an option is wrong."""
    row = STAGES[request.stage]
    if request.on:
        on_board: Callable[[Call], StageResult[Artifact]] = resolve(f"edgeres.{row.on_board}")
        return on_board(request)
    named = _named_source(request)
    run = _run_of(request, named)
    values = with_default_data(row.config_class(), request.values, run)
    config = config_from(row.config_class(), values, request.stage, as_options=True)
    _check_finite(named)
    config.check()
    refuse_needless(config, request.values, request.stage)
    source = named or (source_in(run, request.stage) if run else None)
    by: Function | None = None
    if source is not None and named is None:
        _check_finite(source)
        by = warning_of(request.stage, source, run)
    config = _completed(request.stage, config, source, run)
    if request.out is not None:
        return written_to(request.out, request.stage, source, config, stage_key(request.stage, source, config), by=by)
    is_new = run is None
    if run is None and row.source is None:
        run = _run_to_start(request, config)
    if run is None:
        assert named is not None
        return _in_adopting_run(request.stage, named, config)
    try:
        return _in_run(run, request.stage, source, config, by=by)
    finally:
        if is_new and (request.run or run_of_shell()) and run.path.is_dir():
            log.info("new run %s", run.path)


def _check_finite(model: Model | None) -> None:
    """Raises InputError that names the first tensor of a checkpoint with NaN or infinity; others are not read."""
    if not isinstance(model, Checkpoint):
        return
    torch = require("torch", "train")
    from edgeres.models.weights import load_weights

    for name, tensor in load_weights(model).items():
        if not torch.isfinite(tensor).all():
            what = "NaN" if torch.isnan(tensor).any() else "infinity"
            raise InputError(
                f"{model.path}: {name} holds {what}: the training that made it diverged, or the file is damaged"
            )


def warning_of(stage: str, source: Model, run: Run | None, by: Function | None = None) -> Function | None:
    """`by`, or the stage's function, with a warning in its report where `source`, taken unasked, may be unexpected.

    Says what is taken.
    """
    lacking = _lacking(stage, source, run)
    made = [(folder.path, report) for folder, report in run.reports()] if run else []
    newer = never_exported(source.sha256, made)
    beside = f", which already lacks {', '.join(source.spec.dropped)}" if lacking else ""
    log.info("%s: takes %s%s", stage, source.path, f", not the newer {newer.parent}" if newer else beside)
    warnings = [*filter(None, (lacking,)), *([without_newer(newer, "this")] if newer else [])]
    if not warnings:
        return by

    def warned(source: Model, config: Config, folder: Path) -> StageResult[Artifact]:
        result = (by or function_of(stage))(source, config, folder)
        update = {"warnings": (*warnings, *result.report.warnings)}
        return replace(result, report=result.report.model_copy(update=update))

    return warned


def _lacking(stage: str, source: Model, run: Run | None) -> str | None:
    """A warning where pruning, asked for without a source, goes on from what is already pruned."""
    dropped = source.spec.dropped
    if stage not in {"prune", "sweep", "optimize"} or not dropped:
        return None
    modules = counted(len(dropped), "module")
    models = [model for _, model in run.models()] if run else []
    whole = next((one for one in reversed(models) if isinstance(one, Checkpoint) and not one.spec.dropped), None)
    again = f"edgeres {'prune' if stage == 'sweep' else stage}"
    other = f"; to start from the whole network, the same options: {again} {typed(whole.path)}" if whole else ""
    return f"{source.path} was taken, which already lacks {modules} ({few_of(dropped, 6)}){other}"


def _completed(stage: str, config: Config, source: Model | None, run: Run | None) -> Config:
    """`config` with what the stage takes from the run or from beside its source, checked where it is a network."""
    config = filled(stage, config, source, list(run.reports()) if run else [])
    teacher: Path | None = getattr(config, "teacher", None)
    _check_finite(Checkpoint(teacher) if teacher else None)
    return config


def with_default_data(kind: type[Config], values: dict[str, Any], run: Run | None) -> dict[str, Any]:
    """`values`, with the data set named last in the run if the stage needs one and none is given."""
    field = kind.model_fields.get("data")
    if run is None or field is None or values.get("data") is not None:
        return values
    if not field.is_required() and field.default is not None:  # a study names what it trains on
        return values
    try:
        name = run.data()
    except InputError as err:
        if field.is_required():
            raise
        log.warning("%s", err)
        return values
    if name is None:
        return values
    log.info("data: %s, as before in %s", name, run.path)
    return {**values, "data": name}


def _named_source(request: Call) -> Model | None:
    if request.source is None:
        return None
    row, model = STAGES[request.stage], model_from(request.source)
    if not row.accepts(model):
        is_foreign = isinstance(model, OnnxModel) and not model.spec.preprocess.is_known
        way = f"; make one of it: edgeres import {typed(model.path)}" if is_foreign and row.source is Checkpoint else ""
        got = f"got {request.source} ({model.precision}){way}"
        raise InputError(f"`edgeres {request.stage}` needs a {row.needs}, {got}")
    return taken(model, request.stage)


def _run_of(request: Call, named: Model | None) -> Run | None:
    """The run to work in; None where one is to be begun."""
    if request.run is None and named is not None:
        return run_holding(named.path)
    if STAGES[request.stage].source is not None:
        return run_named(request.run)
    name = request.run or run_of_shell()
    with suppress(InputError):
        return run_named(name) if name is not None else None
    return None


def new_run_of(stage: str) -> str:
    """The run that a stage without a source begins, in words: its name comes from what the stage is given."""
    has_network = "arch" in STAGES[stage].config_class().model_fields
    given = "the file" if stage == "import" else "the network and the data" if has_network else "the stage and the data"
    return f"a new run named after {given}"


def _run_to_start(request: Call, config: Config) -> Run:
    """A new run for a stage that begins one, or the unfinished run of the very same call."""
    if (named := request.run or run_of_shell()) is not None:
        return new_run(named, is_exact=True)
    key = stage_key(request.stage, None, config)
    data = str(getattr(config, "data", "")).rstrip("/").rpartition("/")[2].rpartition(":")[2]
    name = _suiting(f"{getattr(config, 'arch', request.stage)}-{data}".strip("-"))
    if request.stage == "import":
        name = _named_after(getattr(config, "file", Path("imported")))
    for path in sorted(runs_root().glob(f"{glob.escape(name)}*")) if runs_root().is_dir() else ():
        if any(folder.started_key == key and not folder.is_busy for folder in Run(path).folders()):
            log.info("goes on in %s", path)
            return Run(path)
    return new_run(name)


def _named_after(path: Path) -> str:
    """What a run is called that begins with a file, or with the network of a function: `mynet-classifier`."""
    name = str(path)
    return _suiting(name.rpartition(".")[2] if is_function_name(name) else path.stem)


def _suiting(name: str) -> str:
    """`name` without what a folder of some system cannot be called."""
    return re.sub(r'[<>:"|?*\\]', "-", name)


def _in_adopting_run(stage: str, source: Model, config: Config) -> StageResult[Artifact]:
    """In a new run that begins with a copy of a checkpoint from outside, so that the report has its first row.

    A stage that fails and leaves nothing to go on from leaves no run either.
    """
    if not isinstance(source, Checkpoint):
        raise InputError(f"{source.path} is in no run: say where the result goes, --out FILE or --run NAME")
    kind = STAGES["import"].config_class()
    copying = config_from(kind, {"file": source.path}, "import")
    run = new_run(_named_after(source.path))
    try:
        run = Run(_executed(run, "import", None, copying)[0].parent)
    except (Exception, KeyboardInterrupt):
        _remove_if_nothing_came_of(run)
        raise
    try:
        return _in_run(run, stage, source, config, keeps=1)
    except Exception:
        if len(run.folders()) == 1:
            shutil.rmtree(run.path)
        raise
    finally:
        if run.path.is_dir():
            log.info("new run %s, beginning with a copy of %s", run.path, source.path)


def _in_run(
    run: Run, stage: str, source: Model | None, config: Config, *, by: Function | None = None, keeps: int = 0
) -> StageResult[Artifact]:
    """The stage in its folder of `run`, which becomes the current one once more than `keeps` stages stand in it.

    One that fails makes it current only if it left something to go on from.
    """
    before = max(keeps, len(run.folders()))
    try:
        folder, result = _executed(run, stage, source, config, by=by)
        run = Run(folder.parent)
    except (Exception, KeyboardInterrupt):
        _remove_if_nothing_came_of(run)
        _make_current(run, stage, before)
        raise
    _make_current(run, stage, keeps)
    log.info("%s: wrote %s", stage, result.output.path)
    if source is None and result.report.cost:
        for line in begins_another([(one.path, report) for one, report in run.reports()])[-1:]:
            log.warning("warning: %s", line)
        anew = brought_anew([(one.path, report) for one, report in run.reports()])
        if old := [name for name, new in anew.items() if new == folder.name]:
            log.warning("warning: %s", left_out(old, folder.name))
    run.say_if_page_is_older()
    return result


def _make_current(run: Run, stage: str, keeps: int) -> None:
    if len(run.folders()) > keeps and (STAGES[stage].output is not StudyFile or run.models()):
        run.make_latest()


def _remove_if_nothing_came_of(run: Run) -> None:
    """Removes a run that holds nothing but the mark of one stage that began."""
    folders = run.folders()
    if len(folders) == 1 and not folders[0].is_busy:
        leave_no_trace(folders[0].path)
    run.remove_if_empty()


def _executed(
    run: Run, stage: str, source: Model | None, config: Config, *, by: Function | None = None
) -> tuple[Path, StageResult[Artifact]]:
    """(the folder the stage ran in, its result)."""
    key = stage_key(stage, source, config)
    folder = run.claim(stage, key)
    return folder, execute(stage, source, config, folder, key, by=by)


def written_to(
    out: Path, stage: str, source: Model | None, config: Config, key: str, *, by: Function | None = None
) -> StageResult[Artifact]:
    """Runs the stage in a hidden folder beside `out` and moves what it made there; interrupted, the folder stays."""
    check_out(out, STAGES[stage].output, stage, source, config)
    folder = folder_beside(out, stage, key)
    try:
        result = execute(stage, source, config, folder, key, by=by)
    finally:
        leave_or_say_where(folder)
    result = moved_out(result, folder, out)
    log.info("%s: wrote %s", stage, out)
    return result
