"""ONNX -> engine: TensorRT-RTX for GPUs that need not be here, TensorRT for the GPU of this machine."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
from pathlib import Path
from typing import NamedTuple

from edgeres.compile.builder import timing_folder
from edgeres.compile.config import HARDWARE, BuildJob, Built, CompileConfig, graph_fields
from edgeres.compile.isolated import build_apart, inspected, layer_counts
from edgeres.compile.layers import layers_path
from edgeres.core.artifacts import Engine, OnnxModel
from edgeres.core.errors import DeviceError, InputError, MissingDependency, StageError
from edgeres.core.files import sha256_of, write_text, written
from edgeres.core.lineage import advised, check_for_tensorrt, source_of
from edgeres.core.safe_text import typed
from edgeres.core.stage import Recorder, StageResult, timed
from edgeres.graph.view import GraphView
from edgeres.runtime.cuda import Gpu
from edgeres.runtime.manifest import EngineManifest, LayerCounts, local_gpu, packaged_cuda, plan_header, this_system

__all__ = ["CompileConfig", "compile_engine"]
FILE_NAME = "model.plan"
_BINDINGS = {
    "tensorrt-rtx": ("tensorrt_rtx", "rtx"),
    "tensorrt": ("tensorrt", "tensorrt"),
    "torch-tensorrt": ("torch_tensorrt", "tensorrt"),
}
_AS_ASKED = {"optimization_level", "workspace_mib", "version_compatible", "dla_core"}
_DLA_NOTE = "experimental: what a DLA cannot compute moves to the GPU without a word; never run on hardware"

log = logging.getLogger(__name__)


class _Task(NamedTuple):
    """A graph, what was asked, the architectures the engine is for, and the GPU of this machine if there is one."""

    source: OnnxModel
    config: CompileConfig
    targets: tuple[str, ...]
    gpu: Gpu | None

    def job(self, plan_path: Path) -> BuildJob:
        source, config = self.source, self.config
        batch = (config.batch_min, config.batch_opt, config.batch_max)
        keeps_times = config.timing_cache and config.runtime == "tensorrt" and self.gpu is not None
        return BuildJob(
            module=_BINDINGS[config.runtime][0],
            onnx_path=str(source.path.resolve()),
            plan_path=str(plan_path.resolve()),
            quantized="int8" in source.precision,
            half="fp16" in source.precision,
            targets=self.targets if config.runtime == "tensorrt-rtx" else (),
            batch=batch if source.batch is None else (source.batch,) * 3,
            hardware_compatible=HARDWARE[config.hardware_compatible] if config.hardware_compatible else None,
            timing_folder=str(timing_folder()) if keeps_times else None,
            gpu=self.gpu.name if self.gpu else None,
            **config.model_dump(include=_AS_ASKED),
        )

    def manifest(self, engine: Engine, job: BuildJob, built: Built, recorder: Recorder) -> EngineManifest:
        source, config, runtime = self.source, self.config, plan_header(engine.path).runtime
        options = config.model_dump(include={"optimization_level", "workspace_mib"})
        return EngineManifest(
            runtime=runtime,
            runtime_version=built.version,
            targets=self.targets,
            precision="fp16" if config.dla_core is not None and "FP16" in built.flags else source.precision,
            plan_sha256=sha256_of(engine.path),
            batch=job.batch,
            **graph_fields(source, built.inputs, built.outputs),
            build_s=recorder.results["build_s"],
            options={"builder": config.runtime, **options, "tf32": False},
            system=this_system(),
            gpu=job.gpu,
            cuda=self.gpu.cuda if self.gpu else packaged_cuda(runtime),
            strongly_typed=built.strongly_typed,
            flags=built.flags,
            version_compatible=config.version_compatible,
            hardware_compatible=job.hardware_compatible,
            dla_core=config.dla_core,
            timing_cache=built.timing_cache,
            layers=self._layers(engine, runtime, recorder),
        )

    def _layers(self, engine: Engine, runtime: str, recorder: Recorder) -> LayerCounts | None:
        """What the inspector says, where the engine can be loaded."""
        layers_path(engine.path).unlink(missing_ok=True)  # of an earlier build
        if self.gpu is None or self.gpu.target not in self.targets:
            return None
        problem = inspected(runtime.replace("-", "_"), engine.path)
        return layer_counts(engine.path, self.source, recorder, problem)


def compile_engine(source: OnnxModel, config: CompileConfig, out_dir: Path) -> StageResult[Engine]:
    """Writes `out_dir`/model.plan and its manifest model.plan.json; on the engine's GPU also model.plan.layers.json.

    Raises:
        InputError: a target the runtime does not know, or a graph that is not for what was asked.
        MissingDependency: the runtime is not installed.
        DeviceError: `tensorrt` was asked for on a machine without a GPU, or the runtime cannot be imported.
        StageError: the graph is refused, the build fails or its process dies.
    """
    recorder = Recorder("compile", config, source)
    config.check()
    _check_source(source, config)
    task = _task(source, config)
    engine = Engine(out_dir / FILE_NAME)
    with written(engine.path) as temporary:
        job = task.job(temporary)
        with timed(recorder.results, "build_s"):
            built, messages = _built(job, source)
        runtime, wanted = plan_header(temporary).runtime, config.runtime.removeprefix("torch-")
        if runtime != wanted:
            raise StageError(f"compile: asked for a {wanted} plan, the builder wrote one of {runtime}")
    manifest = task.manifest(engine, job, built, recorder)
    write_text(engine.manifest_path, manifest.model_dump_json(indent=1) + "\n")
    recorder.results |= {"runtime": f"{config.runtime} {built.version}", "targets": list(task.targets)}
    recorder.warnings += [*_doubts(source), *messages, *built.notes]
    recorder.notes.append("built, not run: an engine runs on its own GPU only")
    recorder.notes += [_DLA_NOTE] if config.dla_core is not None else []
    recorder.notes += [f"kernel times kept in {timing_folder()}"] if built.timing_cache else []
    log.info("built by %s %s for %s", config.runtime, built.version, ", ".join(task.targets))
    return StageResult(engine, recorder.finish(engine))


def _check_source(source: OnnxModel, config: CompileConfig) -> None:
    _ = source.card  # refused now rather than after the build
    check_for_tensorrt(source)
    config.check_batch(source)
    quantized = "int8" in source.precision
    if config.runtime == "torch-tensorrt" and quantized:
        raise InputError(f"{source.path} has Q/DQ pairs, which torch-tensorrt does not take: --runtime tensorrt does")
    if config.dla_core is None:
        return
    if quantized:
        raise InputError(f"{source.path} has Q/DQ pairs, which a DLA does not take; give it the float graph")
    if source.batch is None:
        exporting = advised("edgeres export", source_of(source.path) or "CHECKPOINT")
        raise InputError(f"{source.path} takes any batch, a DLA only a fixed one: {exporting}")


def _built(job: BuildJob, source: OnnxModel) -> tuple[Built, tuple[str, ...]]:
    """`build_apart`; of a refused Q/DQ file of another tool it says what may mend it."""
    try:
        return build_apart(job, source.path)
    except StageError as err:
        if not job.quantized or source.profile is not None:
            raise
        raise StageError(
            f"{err}; its Q/DQ pairs are another tool's: edgeres lint {typed(source.path)} says what TensorRT minds,"
            " --fix FILE writes a repaired one"
        ) from err


def _doubts(source: OnnxModel) -> list[str]:
    """What is wrong with the numbers in the graph, which no builder minds."""
    odd = list(GraphView(source.proto).broken)
    if not odd:
        return []
    more = f" and {len(odd) - 1} more" if len(odd) > 1 else ""
    return [f"{source.path}: {odd[0]}{more} holds NaN or infinity: the engine will give no numbers; train again"]


def _task(source: OnnxModel, config: CompileConfig) -> _Task:
    """Checks that the engine can be built here."""
    module, extra = _BINDINGS[config.runtime]
    if importlib.util.find_spec(module) is None:
        raise MissingDependency(module, extra)
    if config.runtime == "tensorrt-rtx":
        gpu = None
        with contextlib.suppress(DeviceError):
            gpu = local_gpu()
        return _Task(source, config, config.targets, gpu)
    gpu = local_gpu()
    if "targets" in config.model_fields_set and config.targets != (gpu.target,):
        raise DeviceError(
            f"tensorrt builds for the GPU it runs on ({gpu.target}), {','.join(config.targets)} was asked for; build"
            " there (on a board: --on NAME), or with --runtime tensorrt-rtx"
        )
    return _Task(source, config, (gpu.target,), gpu)
