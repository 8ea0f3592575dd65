"""`edgeres compile MODEL.onnx --on NAME`: the engine is built on the board and brought back with a manifest."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import edgeres
from edgeres.bench.board_answers import MeasureDone
from edgeres.bench.board_facts import facts_of, without_int8
from edgeres.bench.board_figures import distinct
from edgeres.bench.board_session import Session, session
from edgeres.bench.boards import Board, board_named
from edgeres.bench.config import BoardConfig
from edgeres.bench.on_board import PLAN, built_on, check_model, without_folder
from edgeres.compile.apart import counts_in, noted
from edgeres.compile.config import BATCHES, CompileConfig
from edgeres.compile.job import tensor_fields, tensors_of
from edgeres.compile.layers import layers_path
from edgeres.core.artifacts import Engine, OnnxModel, model_from
from edgeres.core.config import config_from
from edgeres.core.errors import InputError
from edgeres.core.files import write_text, written
from edgeres.core.runs import run_named
from edgeres.core.stage import Recorder, StageReport, StageResult, timed
from edgeres.pipeline.on_board import BoardCall, placed
from edgeres.pipeline.stages import source_in, stage_key
from edgeres.runtime.manifest import EngineManifest, LayerCounts

_FOR_BOARDS = {"optimization_level", "workspace_mib", "batch_min", "batch_opt", "batch_max"}
_BRIEFLY = ("--warmup-s", "0", "--duration-s", "1", "--no-energy")


def compile_on_board(source: Path | None, request: BoardCall) -> StageReport:
    """The engine in `out`, or in the run the model lies in; raises InputError for what cannot be asked of a board."""
    board, config = board_named(request.on), _config(request.values)
    config_from(BoardConfig, {"timeout_s": request.timeout_s}, "compile", as_options=True)
    model = model_from(source) if source else source_in(run_named(request.run), "compile")
    if not isinstance(model, OnnxModel):
        raise InputError(f"`edgeres compile` needs a .onnx file, got {source}")
    check_model(model)
    config.check_batch(model)
    key = f"{stage_key('compile', model, config)} on {request.on}"
    return placed("compile", model, config, request, key, partial(_on_board, board, request.timeout_s))


def _config(values: dict[str, Any]) -> CompileConfig:
    for name in sorted(values.keys() - _FOR_BOARDS):
        raise InputError(f"--{name.replace('_', '-')} does not go with --on: the board's own trtexec builds for itself")
    return config_from(CompileConfig, {"runtime": "tensorrt", **values}, "compile", as_options=True)


def _on_board(
    board: Board, timeout_s: int, model: OnnxModel, config: CompileConfig, folder: Path
) -> StageResult[Engine]:
    """The stage `compile` on a board."""
    with session(board) as opened:
        return _built(opened, timeout_s, model, config, Engine(folder / PLAN))


def _built(
    opened: Session, timeout_s: int, model: OnnxModel, config: CompileConfig, engine: Engine
) -> StageResult[Engine]:
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
        counts = _layers(loaded.layers, model, engine.path, recorder)
        manifest = EngineManifest(
            card=model.card.model_copy(
                update={"stage": "compile", "parent": model.sha256, "edgeres": edgeres.__version__}
            ),
            runtime="tensorrt",
            runtime_version=done.tensorrt,
            targets=(facts["target"],) if facts["target"] else (),
            precision=model.precision,
            onnx_sha256=model.sha256,
            plan_sha256=built.sha256,
            batch=(smallest, usual, largest),
            **tensor_fields(tensors_of(graph.input), tensors_of(graph.output)),
            build_s=done.facts.build_s or recorder.results["build_s"],
            options={"builder": "trtexec", "command": without_folder(done.command, opened)},
            onnx_name=model.path.name,
            system=opened.system,
            gpu=facts["model"] or facts["gpu"],
            cuda=facts["cuda"],
            strongly_typed=done.is_strongly_typed,
            layers=counts,
        )
        write_text(engine.manifest_path, manifest.model_dump_json(indent=1) + "\n")
    recorder.results |= {"board": facts, "runtime": f"tensorrt {manifest.runtime_version}"}
    recorder.results["targets"] = list(manifest.targets)
    recorder.warnings += without_int8(opened, model)
    recorder.warnings += distinct(done.warnings)
    recorder.notes.append(
        f"built on {opened.board.name}, loaded and run there for a second; it runs on such boards only"
    )
    return StageResult(engine, recorder.finish(engine))


def _layers(text: str | None, model: OnnxModel, plan: Path, recorder: Recorder) -> LayerCounts | None:
    """The layer report in figures; TensorRT's own JSON is written beside the plan."""
    layers_path(plan).unlink(missing_ok=True)
    if text is None:
        return noted(None, "this trtexec knows no --exportLayerInfo", recorder)
    write_text(layers_path(plan), text)
    return noted(*counts_in(layers_path(plan), model), recorder)
