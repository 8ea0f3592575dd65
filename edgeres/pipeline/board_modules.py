"""`edgeres bench --per-module MODEL --on NAME`: what each module costs on a board, for `prune --target-latency`.

An ONNX file is built and profiled once; of a checkpoint, shortened networks are built and timed one by one. Each of
them is kept as it comes, in the run's folder or a hidden one beside --out, where the same command goes on.
"""

from __future__ import annotations

import hashlib
import json
from functools import partial
from pathlib import Path

from edgeres.bench.board_session import Session, session
from edgeres.bench.boards import Board, board_named
from edgeres.bench.config import BoardConfig
from edgeres.bench.on_board import Bench, check_model
from edgeres.core.artifacts import Checkpoint, LatencyTableFile, OnnxModel, model_from
from edgeres.core.config import config_from
from edgeres.core.errors import InputError
from edgeres.core.kept import Kept
from edgeres.core.metrics import Latency
from edgeres.core.records.latency import LatencyConfig
from edgeres.core.stage import StageReport, StageResult
from edgeres.costs.networks import NetworkTime, kept_networks, on_board
from edgeres.costs.profile import ProfileTexts, latency_from_profile
from edgeres.costs.stage import latency_table
from edgeres.pipeline.on_board import BoardCall, placed
from edgeres.pipeline.stages import stage_key

_OWN = LatencyConfig.model_fields.keys() - BoardConfig.model_fields - {"runtime", "threads", "rounds", "seconds"}
_SHARED = {"batch", "warmup_s", "duration_s", "lock_clocks", "power_mode", "timeout_s"}
_LATENCY_ALONE = {"measure": ("--no-energy",)}
_COMMAND = "bench --per-module"
_KEPT_NAME = "networks.json"


def module_costs_on_board(source: Path, request: BoardCall) -> StageReport:
    """The table in `request.out`, or in the model's run; raises InputError for what cannot be asked of a board.

    Interrupted, the networks that were timed are kept and the same call goes on from there.
    """
    board, model = board_named(request.on), model_from(source)
    for name in sorted(request.values.keys() - _OWN - _SHARED):
        raise InputError(f"--{name.replace('_', '-')} does not go with --per-module --on")
    values = {name: value for name, value in request.values.items() if name in _OWN | {"batch"}}
    config = config_from(LatencyConfig, {**values, "runtime": "tensorrt"}, _COMMAND, as_options=True)
    config.check(on_board=True)
    shared = {name: value for name, value in request.values.items() if name in _SHARED}
    conditions = config_from(BoardConfig, shared, _COMMAND, as_options=True)
    conditions.check_time()
    if not isinstance(model, (OnnxModel, Checkpoint)):
        raise InputError(f"--per-module --on takes an ONNX file or a checkpoint, got {source}")
    if isinstance(model, OnnxModel):
        check_model(model)
    key = _key(model, config, conditions, board)
    return placed("latency", model, config, request, key, partial(_on_board, board, conditions, key))


def _on_board(
    board: Board, conditions: BoardConfig, key: str, model: OnnxModel | Checkpoint, config: LatencyConfig, folder: Path
) -> StageResult[LatencyTableFile]:
    """The stage `latency` on a board; networks that were timed are kept in `folder` until all are."""
    with session(board) as opened:
        opened.always.update(_LATENCY_ALONE)
        bench = Bench(opened, conditions)
        if isinstance(model, OnnxModel):
            return _profiled(bench, model, folder)
        kept = kept_networks(folder / _KEPT_NAME, _hash_of(key, _state_of(opened, conditions)))
        result = _timed(bench, model, config, folder=folder, kept=kept)
    (folder / _KEPT_NAME).unlink(missing_ok=True)
    return result


def _key(model: OnnxModel | Checkpoint, config: LatencyConfig, conditions: BoardConfig, board: Board) -> str:
    """What the table depends on, as far as it is known before the board is asked."""
    options = conditions.model_dump_json(exclude=set(conditions.incidental))
    return _hash_of(stage_key("latency", model, config), options, board.name, board.host)


def _hash_of(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _state_of(opened: Session, conditions: BoardConfig) -> str:
    """What it depends on besides: the board's software, and its power mode and clocks where they stay as they are."""
    found = opened.found
    parts = [found.model, found.l4t, found.jetpack, found.cuda, found.tensorrt]
    mode = conditions.power_mode or (found.power_mode and found.power_mode.name)
    is_locked = conditions.lock_clocks or (found.gpu_clock is not None and found.gpu_clock.is_locked)
    return json.dumps([*parts, mode, is_locked])


def _profiled(bench: Bench, model: OnnxModel, folder: Path) -> StageResult[LatencyTableFile]:
    done = bench.run(model)
    if done.profile is None or done.layers is None:
        raise InputError(
            f"the trtexec of {bench.session.board.name} gives no profile with layers; give the checkpoint"
            " instead of the ONNX file: then shortened networks are timed"
        )
    result = latency_from_profile(model, done.report.latency[0], ProfileTexts(done.profile, done.layers), folder)
    return _with(result, warnings=done.report.warnings)


def _timed(
    bench: Bench, model: Checkpoint, config: LatencyConfig, *, folder: Path, kept: Kept[NetworkTime]
) -> StageResult[LatencyTableFile]:
    def measure_one(network: OnnxModel) -> tuple[Latency, tuple[str, ...]]:
        report = bench.run(network).report
        return report.latency[0], report.warnings

    result = latency_table(model, config, folder, measure=on_board(measure_one, kept))
    in_plan = sorted(kept.records, key=lambda name: int(name.partition(" ")[0]))
    warnings = tuple(dict.fromkeys(warning for name in in_plan for warning in kept.records[name].warnings))
    reused = f"{kept.reused} of {len(kept.records)} networks had been timed by an earlier call of this command"
    return _with(result, warnings=warnings, notes=(reused,) if kept.reused else ())


def _with(
    result: StageResult[LatencyTableFile], *, warnings: tuple[str, ...], notes: tuple[str, ...] = ()
) -> StageResult[LatencyTableFile]:
    report = result.report
    more = {"warnings": (*report.warnings, *warnings), "notes": (*report.notes, *notes)}
    return StageResult(result.output, report.model_copy(update=more))
