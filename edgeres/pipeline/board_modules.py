"""`edgeres bench --per-module MODEL --on NAME`: what each module costs on a board, for `prune --target-latency`.

An ONNX file is built and profiled once; of a checkpoint, shortened networks are built and timed one by one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgeres.bench.board_session import session
from edgeres.bench.boards import board_named
from edgeres.bench.on_board import Bench, BoardConfig, check_model
from edgeres.core.artifacts import Checkpoint, LatencyTableFile, OnnxModel, model_from
from edgeres.core.config import config_from
from edgeres.core.errors import InputError
from edgeres.core.files import made_folder
from edgeres.core.metrics import Latency
from edgeres.core.runs import run_holding, run_named
from edgeres.core.stage import REPORT_NAME, StageReport, StageResult, file_ref, write_report
from edgeres.pipeline.on_board import BoardCall, claimed
from edgeres.pipeline.overwriting import refuse_inputs
from edgeres.pipeline.stages import stage_key
from edgeres.pipeline.teacher import REPORT_SUFFIX
from edgeres.prune.latency import latency_table
from edgeres.prune.latency_board import ProfileTexts, latency_from_profile, on_board
from edgeres.prune.latency_table import LatencyConfig

_OWN = LatencyConfig.model_fields.keys() - BoardConfig.model_fields - {"runtime", "threads", "rounds", "seconds"}
_SHARED = {"batch", "warmup_s", "duration_s", "idle_s", "lock_clocks", "power_mode", "timeout_s"}


def module_costs_on_board(source: Path, request: BoardCall, out: Path | None = None) -> StageReport:
    """The table in `out`, or in the run the model lies in; raises InputError for what cannot be asked of a board."""
    board, model = board_named(request.on), model_from(source)
    for name in sorted(request.values.keys() - _OWN - _SHARED):
        raise InputError(f"--{name.replace('_', '-')} does not go with --per-module --on")
    values = {name: value for name, value in request.values.items() if name in _OWN | {"batch"}}
    config = config_from(LatencyConfig, {**values, "runtime": "tensorrt"}, "bench --per-module", as_options=True)
    config.check(on_board=True)
    conditions = _board_config(request.values)
    if not isinstance(model, (OnnxModel, Checkpoint)):
        raise InputError(f"--per-module --on takes an ONNX file or a checkpoint, got {source}")
    if isinstance(model, OnnxModel):
        check_model(model)
    key = f"{stage_key('latency', model, config)} on {board.name}"
    with _place(model, request, out, key) as folder, session(board) as opened:
        bench = Bench(opened, conditions)
        result = (
            _profiled(bench, model, folder) if isinstance(model, OnnxModel) else _timed(bench, model, config, folder)
        )
        return _placed(result, folder, out)


def _board_config(values: dict[str, Any]) -> BoardConfig:
    config = config_from(BoardConfig, {k: v for k, v in values.items() if k in _SHARED}, "--on", as_options=True)
    config.check()
    return config


def _profiled(bench: Bench, model: OnnxModel, folder: Path) -> StageResult[LatencyTableFile]:
    done = bench.run(model)
    if done.profile is None or done.layers is None:
        raise InputError(
            f"the trtexec of {bench.session.board.name} gives no profile with layers; give the checkpoint"
            " instead of the ONNX file: then shortened networks are timed"
        )
    result = latency_from_profile(model, done.report.latency[0], ProfileTexts(done.profile, done.layers), folder)
    warnings = (*result.report.warnings, *done.report.warnings)
    return StageResult(result.output, result.report.model_copy(update={"warnings": warnings}))


def _timed(bench: Bench, model: Checkpoint, config: LatencyConfig, folder: Path) -> StageResult[LatencyTableFile]:
    said: list[str] = []

    def measure_one(network: OnnxModel) -> Latency:
        report = bench.run(network).report
        said.extend(report.warnings)
        return report.latency[0]

    result = latency_table(model, config, folder, measure=on_board(measure_one))
    warnings = (*result.report.warnings, *dict.fromkeys(said))
    return StageResult(result.output, result.report.model_copy(update={"warnings": warnings}))


@contextmanager
def _place(model: OnnxModel | Checkpoint, request: BoardCall, out: Path | None, key: str) -> Iterator[Path]:
    """The folder to work in: a new one of the run, or a hidden one beside `out`."""
    if out is None:
        run = run_named(request.run) if request.run else run_holding(model.path)
        if run is None:
            raise InputError(f"{model.path} is in no run: say where the table goes, --out FILE or --run NAME")
        with claimed(run, "latency", key) as folder:
            yield folder
        return
    if out.suffix != LatencyTableFile.suffix or out.is_dir():
        raise InputError(f"--out {out}: `edgeres bench --per-module` writes a .json file")
    refuse_inputs(out, model, LatencyConfig())
    folder = out.parent / f".{out.name}.{os.getpid()}"
    made_folder(folder, f"--out {out}")
    try:
        yield folder
    finally:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


def _placed(result: StageResult[LatencyTableFile], folder: Path, out: Path | None) -> StageReport:
    if out is None:
        write_report(result.report, folder / REPORT_NAME)
        return result.report
    os.replace(result.output.path, out)
    report = result.report.model_copy(update={"output": file_ref(LatencyTableFile(out))})
    write_report(report, out.with_name(out.name + REPORT_SUFFIX))
    return report
