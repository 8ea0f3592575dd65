"""`edgeres eval` and `bench`, and what of them a run keeps: accuracy beside a model, latency of all in one session."""

from __future__ import annotations

import hashlib
import json
import logging
import shlex
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, cast

from edgeres.bench.stage import BenchConfig, bench_report
from edgeres.bench.tasks import reason_to_skip
from edgeres.bench.validity import BENCH
from edgeres.core.artifacts import Engine, Model, OnnxModel, model_from
from edgeres.core.config import Config, config_from, record_from_json, refuse_needless
from edgeres.core.errors import DeviceError, EdgeresError, InputError
from edgeres.core.files import set_aside, write_text
from edgeres.core.metrics import Accuracy, Closeness
from edgeres.core.names import canonical_data_name
from edgeres.core.runs import EVAL_NAME, PREDICTIONS_NAME, Run, StageFolder, run_holding, run_named
from edgeres.core.stage import REPORT_NAME, StageReport, write_report
from edgeres.evaluate.agreement import Agreement
from edgeres.evaluate.agreement_run import AgreeConfig, agree
from edgeres.evaluate.stage import EvalConfig, evaluate
from edgeres.pipeline.calls import with_default_data
from edgeres.pipeline.stages import in_the_place_of, newest_in, stage_key
from edgeres.report.agreements import AGREE_NAME
from edgeres.report.folder import taken

log = logging.getLogger(__name__)
IN_NO_RUN = "not kept: no stage of a run made it"
_NOT_KEPT = "not kept in the run: its report shows what was judged on the whole val split, without --images"
_NOT_KEPT_OF_PART = "not kept in the run, whose networks are judged on {} images of val: leave out --images"
Measured = tuple[tuple[StageReport, ...], bool]


def evaluate_call(
    source: Path | None, run_name: str | None, values: dict[str, Any], *, replace: bool = False
) -> StageReport:
    """The accuracy of `source`, or of the newest model of the run; recorded beside it if it lies in a run.

    A run keeps what was judged on the images its networks were judged on before, which are taken where none are named;
    with `replace`, on the whole val split of any data set.
    """
    model = taken(model_from(source), "eval") if source is not None else None
    run = run_holding(model.path) if model is not None and run_name is None else run_named(run_name)
    if model is None:
        assert run is not None
        if (model := newest_in(run, lambda one: not isinstance(one, Engine), "eval")) is None:
            raise InputError(f"{run.path} holds no model that can be evaluated here")
        log.info("eval: takes %s", model.path)
    home = run_holding(model.path)
    if run is not None and home is not None and run.called != home.called:
        raise InputError(f"{model.path} lies in the run {home.called}, not in {run.called}: leave out --run")
    part = None if home is None or replace else part_judged_on(home)
    values = with_default_data(EvalConfig, values, run)
    if home is not None and part is not None and values.get("images") is None:
        log.info("images: %d of val, as before in %s; all of them with --replace", part, home.path)
        values = {**values, "images": part}
    config = config_from(EvalConfig, values, "eval", as_options=True)
    if home is None:
        return evaluate(model, config)
    if reason := _why_not_kept(home, config, replace=replace):
        return evaluate(model, config, whole=whole_of(home)).saying(notes=[reason])
    report, _ = evaluate_in_place(model.path.parent, model, config, fresh=True)
    home.say_if_page_is_older()
    return report


def _why_not_kept(run: Run, config: EvalConfig | AgreeConfig, *, replace: bool = False) -> str:
    """Why what was judged so does not belong beside the other figures of the run, or an empty string."""
    part = part_judged_on(run)
    if config.images is not None and (replace or config.images != part):
        return _NOT_KEPT if part is None or replace else _NOT_KEPT_OF_PART.format(part)
    judged = judged_on(run)
    if replace or not judged or config.data in judged:
        return ""
    how = "; --replace keeps it" if isinstance(config, EvalConfig) else ""
    return f"not kept in the run, whose networks are judged on {', '.join(sorted(judged))}{how}"


def agree_call(files: Sequence[Path], values: dict[str, Any]) -> tuple[Agreement, AgreeConfig]:
    """How the last of the files agrees with the first, and what was asked for; a run keeps it by the rule of `eval`.

    Without files the newest INT8 file of the current run, with the float one it was made from.
    """
    models = [taken(model_from(one), "agree") for one in files]
    if not models:
        models = _float_and_int8(run_named(None))
        log.info("agree: takes %s", " and ".join(str(one.path) for one in models))
    home, run = (run_holding(models[place].path) for place in (-1, 0))
    config = config_from(AgreeConfig, with_default_data(AgreeConfig, values, home or run), "agree", as_options=True)
    found = agree(models[0], models[-1], config)
    if home is not None and (reason := _why_not_kept(home, config)):
        return found.model_copy(update={"notes": (*found.notes, reason)}), config
    if home is not None:  # its page shows it, module by module
        _keep(found, models[-1].path.parent / AGREE_NAME)
        home.say_if_page_is_older()
    return found, config


def _keep(found: Agreement, path: Path) -> None:
    """Writes it to `path`; what is there of another A, or of other images, is kept too."""
    with suppress(EdgeresError):
        before = record_from_json(Agreement, path)
        if (before.a.sha256, before.dataset, before.n) != (found.a.sha256, found.dataset, found.n):
            set_aside(path)
    write_text(path, found.model_dump_json(indent=1) + "\n")


def _float_and_int8(run: Run) -> list[Model]:
    """The newest INT8 file and, before it, what that was made from; raises InputError if one is not there."""
    int8 = newest_in(run, lambda one: isinstance(one, OnnxModel) and "int8" in one.precision, "agree")
    if int8 is None:
        raise InputError(
            f"{run.path} holds no INT8 file for `edgeres agree`; name two files, or make it: edgeres quantize --run"
            f" {run.typed}"
        )
    made = next(report for folder, report in run.reports() if folder.path == int8.path.parent)
    of = made.source.sha256 if made.source else ""
    if (whole := next((one for _, one in run.models() if one.sha256 == of), None)) is None:
        raise InputError(f"{run.path} does not hold what {int8.path} was made from; name two files")
    return [whole, int8]


def bench_call(paths: tuple[Path, ...], run_name: str | None, values: dict[str, Any]) -> StageReport:
    """One interleaved session over `paths`, or over all models of the run.

    It is kept in the run without `paths`, and with them if `run_name` is given and all of them are models of that run.
    Raises DeviceError if none of `paths` can be timed here.
    """
    config = config_from(BenchConfig, values, "bench", as_options=True)
    refuse_needless(config, values, "bench")
    named = [taken(model_from(path), "bench") for path in paths]
    run = run_named(run_name) if run_name is not None or not named else None
    own = {model.sha256 for _, model in run.models()} if run is not None and named else set()
    strange = [model for model in named if run is not None and model.sha256 not in own]
    is_timed = not named or not all(reason_to_skip(model, config) for model in named)
    if run is not None and is_timed and not strange:
        return _bench_in_run(run, named, config)
    report = bench_report(named, config)
    if not report.latency:
        raise DeviceError(f"nothing was timed: {'; '.join(report.notes)}")
    reason = _how_to_keep(named)
    if run is not None:
        names = ", ".join(str(model.path) for model in strange)
        whole = "without FILES bench keeps a session of all its models"
        reason = f"not kept in {run.path}, which did not make {names}; {whole}"
    return report.saying(notes=filter(None, (reason,)))


def _bench_in_run(run: Run, named: Sequence[Model], config: Config) -> StageReport:
    """A session over `named`, or all models of the run, kept in a new folder of it."""
    wanted = {model.sha256 for model in named}
    models = [pair for pair in run.models() if not wanted or pair[1].sha256 in wanted]
    if not models:
        raise InputError(f"{run.path} holds no model to time")
    for _, model in () if named else models:
        taken(model, "bench")
    folder = run.folder_for("bench", "")
    ((report,), _) = bench_models(models, config, folder, named=named)
    log.info("bench: wrote %s", folder / REPORT_NAME)
    run.say_if_page_is_older()
    return report


def _how_to_keep(named: Sequence[Model]) -> str:
    """Why nothing is kept, and for files of one run what does."""
    homes = {run_holding(model.path) for model in named}
    if len(homes) > 1:
        return "not kept: the files are not of one run"
    home = homes.pop()
    return IN_NO_RUN if home is None else f"not kept in the run; --run {home.typed} keeps it there"


def evaluate_models(models: Sequence[tuple[StageFolder, Model]], config: Config, *, fresh: bool = False) -> Measured:
    """The accuracy of every model that runs here, each written beside it; whether all of them were there already."""
    reports, reused = [], True
    for folder, model in models:
        if isinstance(model, Engine):
            log.info("%s: not evaluated, an engine runs on its own GPU only", model.path)
            continue
        report, was_there = evaluate_in_place(folder.path, model, config, fresh=fresh)
        reports.append(report)
        reused &= was_there
    return tuple(reports), reused


def evaluate_in_place(folder: Path, model: Model, config: Config, *, fresh: bool = False) -> tuple[StageReport, bool]:
    """The evaluation of `model` in `folder`/eval.json, made now unless one with the same key is there."""
    key = stage_key("eval", model, config)
    known = None if fresh else report_with(folder / EVAL_NAME, key)
    if known and (known.closeness or (folder / PREDICTIONS_NAME).is_file()):
        return known, True
    log.info("eval %s", model.path)
    home = run_holding(model.path)
    whole = None if home is None else whole_of(home)
    files = folder / EVAL_NAME, folder / PREDICTIONS_NAME
    if home:
        _left_to_a_twin(files, model.sha256, home)
    is_others = files[0].is_file() and report_with(files[0], key) is None
    with in_the_place_of(*files) if is_others else nullcontext():
        report = evaluate(model, cast(EvalConfig, config), files[1], whole)
        report = report.model_copy(update={"key": key})
        write_report(report, files[0])
    return report, False


def _left_to_a_twin(files: Sequence[Path], sha256: str, home: Run) -> None:
    """Moves the evaluation of what the file was before it had this content to a stage that made the same again."""
    judged = None
    with suppress(EdgeresError):
        judged = record_from_json(StageReport, files[0]).source
    if judged is None or judged.sha256 == sha256:
        return
    made = (folder.path for folder, report in home.reports() if report.output and report.output.sha256 == judged.sha256)
    if twin := next((one for one in made if one != files[0].parent and not (one / EVAL_NAME).exists()), None):
        for path in filter(Path.is_file, files):
            path.replace(twin / path.name)


def whole_of(run: Run) -> Model | None:
    """The network that the others of the run come from: the least cut, FP32 before less, then the earliest."""
    models = [model for _, model in run.models() if not isinstance(model, Engine)]
    return min(models, key=lambda one: (len(one.spec.dropped), one.precision != "fp32"), default=None)


def _evaluations_in(run: Run) -> Iterator[StageReport]:
    for folder in run.finished():
        with suppress(EdgeresError):
            yield record_from_json(StageReport, folder.path / EVAL_NAME)


def judged_on(run: Run) -> set[str]:
    """Names of the data sets that networks of the run were judged on."""
    found: set[str] = set()
    for report in _evaluations_in(run):
        judged: tuple[Accuracy | Closeness, ...] = (*report.accuracy, *report.closeness)
        found |= {*(one.dataset for one in judged), str(report.config.get("data"))}
    return {canonical_data_name(name) for name in found - {str(None)}}


def part_judged_on(run: Run) -> int | None:
    """On how many images of val all networks of the run were judged that were; None for the whole of it."""
    counts: set[int | None] = set()
    for report in _evaluations_in(run):
        judged: tuple[Accuracy | Closeness, ...] = (*report.accuracy, *report.closeness)
        counts |= {one.n if one.n == report.config.get("images") else None for one in judged}
    return counts.pop() if len(counts) == 1 else None


def bench_models(
    models: Sequence[tuple[StageFolder, Model]],
    config: Config,
    folder: Path,
    *,
    fresh: bool = False,
    named: Sequence[Model] = (),
) -> Measured:
    """The latency of every model that runs here, interleaved; written into `folder`."""
    hashes = json.dumps([model.sha256 for _, model in models])
    key = hashlib.sha256((hashes + stage_key("bench", None, config)).encode()).hexdigest()
    if not fresh and (known := report_with(folder / REPORT_NAME, key)):
        return (known,), True
    again = shlex.join([*BENCH.split(), "--run", Run(folder.parent).called, *(str(one.path) for one in named)])
    report = bench_report([model for _, model in models], cast(BenchConfig, config), command=again)
    report = report.model_copy(update={"key": key})
    with in_the_place_of(folder):
        write_report(report, folder / REPORT_NAME)
    return (report,), False


def report_with(path: Path, key: str) -> StageReport | None:
    """The report of the very same call, if it is there."""
    with suppress(EdgeresError):
        report = record_from_json(StageReport, path)
        return report if report.key == key else None
    return None
