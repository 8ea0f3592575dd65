"""What is done on a board at the request of the laptop: measuring, judging, building, and what of it a run keeps."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from edgeres.bench.board_accuracy import Images
from edgeres.bench.board_answers import BoardFound
from edgeres.bench.board_facts import check_opset
from edgeres.bench.board_figures import shares_of
from edgeres.bench.board_measuring import NO_ACCURACY, Bench, Loaded, images_for, onnx_of
from edgeres.bench.board_session import session
from edgeres.bench.boards import Board, board_named
from edgeres.bench.config import BoardConfig
from edgeres.compile.layer_report import layer_report
from edgeres.compile.layers import layers_in
from edgeres.core.artifacts import FUSED_PROFILE, Engine, Model, OnnxModel, model_from
from edgeres.core.config import Config, config_from
from edgeres.core.errors import InputError
from edgeres.core.names import DATA_NAMES
from edgeres.core.runs import STARTED_NAME, Run, run_holding, run_named
from edgeres.core.stage import REPORT_NAME, StageReport, write_report
from edgeres.pipeline.calls import Call, with_default_data
from edgeres.pipeline.eval_bench import IN_NO_RUN, report_with, whole_of
from edgeres.pipeline.stages import say_left_out, stage_key
from edgeres.report.folder import taken

log = logging.getLogger(__name__)
STAGE = "board"
_JUDGED = "eval"  # what the report calls a model that was judged and not timed
_PART = "accuracy not kept in the run: its report shows what was judged on the whole val split, without --images"
_OF_PART = "evaluated on "  # begins the warning that goes with such an accuracy


def bench_on_board(paths: Sequence[Path], request: Call) -> Iterator[StageReport]:
    """Measures the models on the board, in one session; default: all ONNX files of the run, whose folder keeps it.

    Everything that can be seen to be wrong is said before the board is asked.
    """
    board = board_named(request.on)
    models = [model_from(path) for path in paths] or _of_run(run_named(request.run))
    run = _run_for(models, request)
    config = board_config(request.values, run, "bench")
    with run.saying_if_page_is_older() if run else nullcontext():
        yield from _measured(board, models, config, request)


def evaluate_on_board(request: Call) -> StageReport:
    """The accuracy of one model on the board, and how far it is from ONNX Runtime's; nothing is timed.

    A run keeps what was judged on the whole of val, as it does for this machine.
    """
    board = board_named(request.on)
    models = [model_from(request.source)] if request.source else _of_run(run_named(request.run))[-1:]
    run = _run_for(models, request)
    config = board_config(request.values, run, _JUDGED)
    if config.data is None:
        raise InputError(f"on which data set? --data {DATA_NAMES}")
    if request.source is None:
        log.info("eval: takes %s", models[0].path)
    with run.saying_if_page_is_older() if run else nullcontext():
        (report,) = _measured(board, models, config, request, accuracy_only=True)
    return report


def board_of_run(run: Run, request: Call, *, fresh: bool = False) -> Iterator[StageReport]:
    """Measures the whole network and the last file in each precision; `eval` judges the last file alone.

    What one session has found before is reused unless `fresh`.
    """
    board, is_judged = board_named(request.on), request.stage == _JUDGED
    models = _of_run(run)[-1:] if is_judged else whole_and_last(_of_run(run))
    config = board_config(request.values, run, request.stage)
    if is_judged and config.data is None:
        raise InputError(f"on which data set? data = {DATA_NAMES}")
    keys = [key_on(board, _JUDGED if is_judged else STAGE, model, config) for model in models]
    known = [report for key in keys if not fresh and (report := _known(run, key))]
    sessions = {report.latency[0].session for report in known if report.latency}
    if len(known) < len(models) or (len(sessions) > 1 and shares_of(config.duration_s)):
        yield from _measured(board, models, config, request, accuracy_only=is_judged)
        return
    for model, report in zip(models, known, strict=True):
        log.info("board: %s measured already on %s, reused", model.path, board.name)
        yield report


def check_board(name: str) -> BoardFound:
    """What the board is; raises before hours of work if it cannot be reached or has no trtexec."""
    with session(board_named(name)) as opened:
        found = opened.found
    if not found.trtexec:
        raise InputError(f"{name} has no trtexec; on the board: sudo apt install libnvinfer-bin")
    return found


def board_config(values: dict[str, Any], run: Run | None, command: str) -> BoardConfig:
    """The options, with the run's data set where none is named; raises InputError naming `command` if one is wrong."""
    config = config_from(BoardConfig, with_default_data(BoardConfig, values, run), command, as_options=True)
    config.check()
    if command != _JUDGED:
        config.check_time()
    return config


def whole_and_last(models: Sequence[Model]) -> list[Model]:
    """The first network's file, the last in FP32, in FP16, which is what INT8 has to beat on a Jetson, and in INT8."""
    last = {"int8" if "int8" in model.precision else model.precision: model for model in models}
    ends = [last[kind] for kind in ("fp32", "fp16", "int8") if kind in last]
    least = min((model for model in models if model.precision == "fp32"), key=_cut, default=None)
    return [least, *ends] if least and _cut(least) < _cut(ends[0]) else ends


def _cut(model: Model) -> int:
    """How many modules it lacks."""
    return len(model.spec.dropped)


def _of_run(run: Run) -> list[Model]:
    """The ONNX files that a board takes; raises InputError if there is none."""
    found: list[Model] = [
        model for _, model in run.models() if isinstance(model, OnnxModel) and model.profile != FUSED_PROFILE
    ]
    say_left_out(run, "on a board")
    if not found:
        raise InputError(
            f"{run.path} holds no ONNX file that a board takes; make one: edgeres export --run {run.typed}"
        )
    return found


def _run_for(models: Sequence[Model], request: Call) -> Run | None:
    return next((run for model in models if (run := home_of(model, request))), None)


def home_of(model: Model, request: Call) -> Run | None:
    """The run that keeps what is measured: the one named, otherwise the one the model lies in."""
    return run_named(request.run) if request.run is not None else run_holding(model.path)


def _measured(
    board: Board, models: Sequence[Model], config: BoardConfig, request: Call, *, accuracy_only: bool = False
) -> Iterator[StageReport]:
    """A report of each model; what kept one of several from being measured is raised when the others are done."""
    home = _run_for([taken(model, request.stage) for model in models], request)
    images = images_for(models, config, whole_of(home) if home else None)
    _say_what_travels(images, models, request)
    if config.images is not None and home:
        log.info("%s", _PART)
    with session(board) as opened:
        bench = Bench(opened, config, images, accuracy_only, weighs=True)
        for onnx in (model for model in models if isinstance(model, OnnxModel)):
            check_opset(opened, onnx)
        for one in bench.measured(models):
            yield from bench.each(partial(_kept, bench, home_of(one.model, request)), [one])
    if bench.failures:
        raise bench.failures[0]


def _say_what_travels(images: Images | None, models: Sequence[Model], request: Call) -> None:
    """One line where the data set was not named by the user: an upload of all of val takes its time."""
    known = [model for model in models if not isinstance(model, Engine) or model.manifest_path.is_file()]
    if images is None or not known or request.values.get("data") is not None:
        return
    fewer = "" if "images" in request.values else " (fewer: --images N)"
    count = len(images.dataset(known[0].spec).val)
    log.info("%s: %d val images go there, for the accuracy%s", request.on, count, fewer)


def _kept(bench: Bench, run: Run | None, one: Loaded) -> StageReport:
    """The report of a measured model; with a run it goes into NN-board, without an accuracy on a part of val."""
    is_part = bench.config.images is not None
    if run is None or (is_part and bench.accuracy_only):
        report = with_layers(bench.finished(one), one)
        return report.saying(notes=[IN_NO_RUN if run is None else _PART])
    key = key_on(bench.session.board, _JUDGED if bench.accuracy_only else STAGE, one.model, bench.config)
    with claimed(run, STAGE, key) as folder:
        report = with_layers(bench.finished(one, None if is_part else folder), one)
        if not any(warning.startswith(NO_ACCURACY) for warning in report.warnings):  # the next call tries again
            report = report.model_copy(update={"key": key})
        write_report(_as_measured(report, is_part=is_part), folder / REPORT_NAME)
    log.info("%s: written", folder / REPORT_NAME)
    return report.saying(notes=[_PART]) if is_part else report


def _with_figures(report: StageReport, **more: Any) -> StageReport:
    results = {**report.results, "figures": {**report.results["figures"], **more}}
    return report.model_copy(update={"results": results})


def _as_measured(report: StageReport, *, is_part: bool) -> StageReport:
    """A report of the stage "board", which is what a run keeps: without an accuracy on a part of val."""
    figures: dict[str, Any] = {"is_valid": None, "problems": []} | report.results["figures"]
    update: dict[str, Any] = {"stage": STAGE}
    if is_part:
        figures["agreement"] = None
        warnings = tuple(warning for warning in report.warnings if not warning.startswith(_OF_PART))
        update |= {"accuracy": (), "closeness": (), "warnings": warnings}
    return _with_figures(report, **figures).model_copy(update=update)


@contextmanager
def claimed(run: Run, stage: str, key: str) -> Iterator[Path]:
    """A new folder of the run, to be read once it has a report; what fails or is interrupted before leaves none."""
    folder = run.claim(stage, key)
    try:
        yield folder
    finally:
        (folder / STARTED_NAME).unlink(missing_ok=True)
        if not (folder / REPORT_NAME).is_file():
            shutil.rmtree(folder)


def with_layers(report: StageReport, one: Loaded) -> StageReport:
    """The report, with the headline of what became of the residual additions."""
    source, text = onnx_of(one.model), one.answer.layers if one.answer else None
    if text is None or source is None:
        return report
    try:
        headline = layer_report(layers_in(json.loads(text), "the board's layer file"), source.proto).headline
    except (InputError, ValueError) as err:
        return report.saying(warnings=[f"no layer report: {err}"])
    return _with_figures(report, layers=headline)


def key_on(board: Board, stage: str, model: Model, config: Config, *more: str) -> str:
    """What the result of a stage on a board depends on, as one hash."""
    parts = (stage_key(stage, model, config), board.name, board.host, *more)
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def _known(run: Run, key: str) -> StageReport | None:
    """What was measured before by the very same call."""
    folders = [folder.path for folder in reversed(run.finished()) if folder.stage == STAGE]
    return next(filter(None, (report_with(folder / REPORT_NAME, key) for folder in folders)), None)
