"""Stages on a board in the place of this machine: the same keys, folders and --out, another function.

    edgeres compile MODEL.onnx --on NAME          the engine is built there and brought back with a manifest
    edgeres bench --per-module MODEL --on NAME    what each module costs there, for `prune --target-latency`

For the costs an ONNX file is built and profiled once; of a checkpoint, shortened networks are built and timed one by
one. Each of them is kept as it comes, in the run's folder or a hidden one beside --out, where the same command goes on.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgeres.bench.board_answers import MeasureDone
from edgeres.bench.board_facts import facts_of, opsets_of, without_int8
from edgeres.bench.board_figures import distinct
from edgeres.bench.board_measuring import PLAN, Bench, built_on, check_model, without_folder
from edgeres.bench.board_session import Session, session
from edgeres.bench.boards import Board, board_named
from edgeres.bench.config import BoardConfig
from edgeres.compile.config import BATCHES, FOR_BOARDS, CompileConfig, graph_fields, tensors_of
from edgeres.compile.isolated import layer_counts
from edgeres.compile.layers import layers_path
from edgeres.core.artifacts import Artifact, Checkpoint, Engine, LatencyTableFile, Model, OnnxModel, model_from
from edgeres.core.config import Config, config_from, refuse
from edgeres.core.errors import InputError
from edgeres.core.files import write_text, written
from edgeres.core.metrics import Latency
from edgeres.core.records.latency import LatencyConfig
from edgeres.core.resuming import Kept
from edgeres.core.runs import run_named
from edgeres.core.stage import Recorder, StageResult, timed
from edgeres.costs.networks import NetworkTime, on_board
from edgeres.costs.profile import ProfileTexts, latency_from_profile
from edgeres.costs.stage import latency_table
from edgeres.pipeline.board_calls import home_of, key_on
from edgeres.pipeline.calls import Call, warning_of, written_to
from edgeres.pipeline.outside import leave_or_say_where
from edgeres.pipeline.stages import Function, execute, source_in
from edgeres.report.folder import taken
from edgeres.runtime.manifest import EngineManifest

_BRIEFLY = ("--warmup-s", "0", "--duration-s", "1", "--no-energy")
_OWN = LatencyConfig.model_fields.keys() - BoardConfig.model_fields - {"runtime", "threads", "rounds", "seconds"}
_SHARED = {"batch", "warmup_s", "duration_s", "lock_clocks", "power_mode", "timeout_s"}
_COSTS = "bench --per-module"
_KEPT_NAME = "networks.json"


def compile_on_board(request: Call) -> StageResult[Artifact]:
    """The engine in `out`, or in the run the model lies in; raises InputError for what cannot be asked of a board."""
    board, values = board_named(request.on), dict(request.values)
    limit = {"timeout_s": values.pop("timeout_s")} if "timeout_s" in values else {}
    timeout_s = config_from(BoardConfig, limit, "compile", as_options=True).timeout_s
    refuse(values.keys() - FOR_BOARDS, "does not go with --on: the board's own trtexec builds for itself")
    config = config_from(CompileConfig, {"runtime": "tensorrt", **values}, "compile", as_options=True)
    run = None if request.source else run_named(request.run)
    model = source_in(run, "compile") if run else taken(model_from(request.source or Path()), "compile")
    if not isinstance(model, OnnxModel):
        raise InputError(f"`edgeres compile` needs a .onnx file, got {request.source}")
    key, build = compiling_on(board, model, config, timeout_s)
    return placed(request, model, config, key, (warning_of("compile", model, run, build) if run else None) or build)


def compiling_on(board: Board, model: Model, config: CompileConfig, timeout_s: int) -> tuple[str, Function]:
    """(key, what builds the engine there in the place of the stage's function); InputError for what no board takes."""
    assert isinstance(model, OnnxModel)
    check_model(model)
    config.check_batch(model)

    def build(model: OnnxModel, config: CompileConfig, folder: Path) -> StageResult[Engine]:
        with session(board) as opened:
            return built_there(opened, timeout_s, model, config, Engine(folder / PLAN))

    said = config.model_dump(mode="json", include={*FOR_BOARDS} - config.needless_of(model))
    return key_on(board, "compile", model, config), acting(board, build, said)


def module_costs_on_board(request: Call) -> StageResult[Artifact]:
    """The table in `request.out`, or in the model's run; raises InputError for what cannot be asked of a board.

    Interrupted, the networks that were timed are kept and the same call goes on from there.
    """
    if request.source is None:
        raise InputError("--per-module --on takes one ONNX file or one checkpoint; name it")
    board, model = board_named(request.on), taken(model_from(request.source), request.stage)
    refuse(request.values.keys() - _OWN - _SHARED, "does not go with --per-module --on")
    values = {name: value for name, value in request.values.items() if name in _OWN | {"batch"}}
    config = config_from(LatencyConfig, {**values, "runtime": "tensorrt"}, _COSTS, as_options=True)
    config.check(on_board=True)
    shared = {name: value for name, value in request.values.items() if name in _SHARED}
    conditions = config_from(BoardConfig, shared, _COSTS, as_options=True)
    conditions.check_time()
    if not isinstance(model, (OnnxModel, Checkpoint)):
        raise InputError(f"--per-module --on takes an ONNX file or a checkpoint, got {request.source}")
    if isinstance(model, OnnxModel):
        check_model(model)
    options = conditions.model_dump_json(exclude=set(conditions.incidental))
    key = key_on(board, "latency", model, config, options)

    def cost(model: OnnxModel | Checkpoint, config: LatencyConfig, folder: Path) -> StageResult[LatencyTableFile]:
        with session(board) as opened:
            bench = Bench(opened, conditions)
            if isinstance(model, OnnxModel):
                return profiled(bench, model, folder)
            state = _state_of(opened, conditions)
            kept = Kept[NetworkTime](folder / _KEPT_NAME, f"{key} {state}", NetworkTime)
            result = _timed(bench, model, config, folder=folder, kept=kept)
        kept.clear()
        return result

    said = config.model_dump(mode="json", include=_OWN) | conditions.model_dump(mode="json", include=_SHARED)
    return placed(request, model, config, key, acting(board, cost, said))


def acting(board: Board, act: Function, said: dict[str, Any]) -> Function:
    """What `act` does on the board; its report has the options `said`, which go with --on, and the board's name."""

    def by(model: Model, config: Config, folder: Path) -> StageResult[Artifact]:
        began_s, result = time.perf_counter(), act(model, config, folder)
        took_s = round(time.perf_counter() - began_s, 3)  # the sessions with the board included
        results = {"on": board.name, **result.report.results}
        update = {"config": said, "results": results, "duration_s": took_s}
        return replace(result, report=result.report.model_copy(update=update))

    return by


def placed(request: Call, model: Model, config: Config, key: str, by: Function) -> StageResult[Artifact]:
    """What is done on a board in the place of the stage's function: in --out, or in the model's run.

    Interrupted, what can be gone on from is kept there, and said. Raises InputError without a place.
    """
    if request.out is not None:
        return written_to(request.out, request.stage, model, config, key, by=by)
    run = home_of(model, request)
    if run is None:
        raise InputError(f"{model.path} is in no run: say where the result goes, --out FILE or --run NAME")
    with run.saying_if_page_is_older():
        folder = run.claim(request.stage, key)
        try:
            return execute(request.stage, model, config, folder, key, by=by)
        finally:
            leave_or_say_where(folder)


def built_there(
    opened: Session, timeout_s: int, model: OnnxModel, config: CompileConfig, engine: Engine
) -> StageResult[Engine]:
    """The engine of `model`, built on the board and brought to `engine`."""
    recorder = Recorder("compile", config, model)
    recorder.notes += opened.claim()
    smallest, usual, largest = (model.batch or getattr(config, name) for name in BATCHES)
    with timed(recorder.results, "build_s"):
        asked = {"builderOptimizationLevel=": config.optimization_level, "memPoolSize=workspace:": config.workspace_mib}
        extra = tuple(f"--{option}{value}" for option, value in asked.items() if value is not None)
        built = built_on(opened, model, (smallest, usual, largest), extra, timeout_s=timeout_s)
    words = (*_BRIEFLY, "--timeout-s", str(timeout_s), "--folder", opened.folder, *built.shapes)
    loaded = opened.agent(MeasureDone, "--engine", built.remote, *words, takes_s=timeout_s)
    facts, done, graph = facts_of(opened, loaded), built.done, model.proto.graph
    assert done is not None
    with written(engine.path) as arrived:
        opened.download(PLAN, arrived, built.sha256, done.engine_bytes)
        layers_path(engine.path).unlink(missing_ok=True)
        if loaded.layers is not None:
            write_text(layers_path(engine.path), loaded.layers)
        lacks = "this trtexec knows no --exportLayerInfo" if loaded.layers is None else ""
        counts = layer_counts(engine.path, model, recorder, lacks)
        manifest = EngineManifest(
            runtime="tensorrt",
            runtime_version=done.tensorrt,
            targets=(facts["target"],) if facts["target"] else (),
            precision=model.precision,
            plan_sha256=built.sha256,
            batch=(smallest, usual, largest),
            **graph_fields(model, tensors_of(graph.input), tensors_of(graph.output)),
            build_s=done.facts.build_s or recorder.results["build_s"],
            options={"builder": "trtexec", "command": without_folder(done.command, opened)},
            system=opened.system,
            gpu=facts["model"] or facts["gpu"],
            cuda=facts["cuda"],
            strongly_typed=done.is_strongly_typed,
            layers=counts,
        )
        write_text(engine.manifest_path, manifest.model_dump_json(indent=1) + "\n")
    recorder.results |= {"board": facts, "runtime": f"tensorrt {manifest.runtime_version}"}
    recorder.results["targets"] = list(manifest.targets)
    recorder.warnings += [*without_int8(opened, model), *distinct(done.warnings)]
    recorder.notes.append(
        f"built on {opened.board.name}, loaded and run there for a second; it runs on such boards only"
    )
    return StageResult(engine, recorder.finish(engine))


def _state_of(opened: Session, conditions: BoardConfig) -> str:
    """What the costs depend on besides: the board's software, and its power mode and clocks where they stay."""
    found = opened.found
    parts = [found.model, found.l4t, found.jetpack, found.cuda, found.tensorrt]
    mode = conditions.power_mode or (found.power_mode and found.power_mode.name)
    is_locked = conditions.lock_clocks or (found.gpu_clock is not None and found.gpu_clock.is_locked)
    return json.dumps([*parts, mode, is_locked])


def profiled(
    bench: Bench, model: OnnxModel, folder: Path, *, built: Engine | None = None
) -> StageResult[LatencyTableFile]:
    """What each module costs, by the profile of the engine `built` of `model`, or of one that is built now.

    Raises InputError where the board's trtexec gives none.
    """
    (one,) = bench.measured([built or model])
    report, answer = bench.finished(replace(one, model=model)), one.answer
    if answer is None or answer.profile is None or answer.layers is None:
        raise InputError(
            f"the trtexec of {bench.session.board.name} gives no profile with layers; give the checkpoint"
            " instead of the ONNX file: then shortened networks are timed"
        )
    result = latency_from_profile(model, report.latency[0], ProfileTexts(answer.profile, answer.layers), folder)
    return replace(result, report=result.report.saying(warnings=report.warnings))


def _timed(
    bench: Bench, model: Checkpoint, config: LatencyConfig, *, folder: Path, kept: Kept[NetworkTime]
) -> StageResult[LatencyTableFile]:
    def measure_one(network: OnnxModel) -> tuple[Latency, tuple[str, ...]]:
        report = bench.run(network)
        return report.latency[0], report.warnings

    known = opsets_of(bench.session.found)
    newest = known[1] if known else None
    result = latency_table(model, config, folder, measure=on_board(measure_one, kept), newest_opset=newest)
    in_plan = sorted(kept.records, key=lambda name: int(name.partition(" ")[0]))
    warnings = tuple(dict.fromkeys(warning for name in in_plan for warning in kept.records[name].warnings))
    reused = f"{kept.reused} of {len(kept.records)} networks had been timed by an earlier call of this command"
    report = result.report.saying(warnings=warnings, notes=[reused] if kept.reused else [])
    return replace(result, report=report)
