"""ONNX -> engine: TensorRT-RTX for GPUs that need not be here, TensorRT for the GPU of this machine."""

from __future__ import annotations

import importlib.util
import logging
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator
from typing_extensions import Self

import edgeres
from edgeres.compile.builder import BuildJob, Built
from edgeres.compile.plan import plan_header
from edgeres.compile.targets import check_rtx_targets, local_target
from edgeres.compile.worker import PHASE, WorkerResult
from edgeres.core.artifacts import FUSED_PROFILE, Engine, Manifest, OnnxModel
from edgeres.core.config import Config, record_from_json
from edgeres.core.errors import DeviceError, InputError, MissingDependency, StageError
from edgeres.core.files import sha256_of, write_text, written
from edgeres.core.stage import Recorder, StageResult, timed

FILE_NAME = "model.plan"
_BINDINGS = {"tensorrt-rtx": ("tensorrt_rtx", "rtx"), "tensorrt": ("tensorrt", "tensorrt")}

log = logging.getLogger(__name__)


class CompileConfig(Config):
    """For which GPU and how hard to try; the batch sizes matter for a dynamic graph only."""

    runtime: Literal["tensorrt-rtx", "tensorrt"] = Field("tensorrt-rtx", description="who will run the engine")
    targets: tuple[str, ...] = Field(
        ("sm86", "sm89", "sm120"), description="GPU architectures; tensorrt always builds for this machine's"
    )
    optimization_level: int | None = Field(None, ge=0, le=5, description="0 quick build to 5 long search")
    workspace_mib: int | None = Field(None, gt=0, description="scratch memory; default: the whole device")
    batch_min: int = Field(1, ge=1, description="smallest batch of a dynamic graph")
    batch_opt: int = Field(8, ge=1, description="batch a dynamic graph is tuned for")
    batch_max: int = Field(32, ge=1, description="largest batch of a dynamic graph")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.batch_min <= self.batch_opt <= self.batch_max:
            raise ValueError(
                "batch_min <= batch_opt <= batch_max does not hold for"
                f" {self.batch_min}, {self.batch_opt}, {self.batch_max}"
            )
        return self

    def check(self) -> None:
        """TensorRT-RTX knows the targets."""
        if self.runtime == "tensorrt-rtx":
            check_rtx_targets(self.targets)


def compile_engine(source: OnnxModel, config: CompileConfig, out_dir: Path) -> StageResult[Engine]:
    """Writes `out_dir`/model.plan and its manifest model.plan.json.

    Raises:
        InputError: a target the runtime does not know.
        MissingDependency: the runtime is not installed.
        DeviceError: `tensorrt` was asked for on a machine without a GPU, or the runtime cannot be imported.
        StageError: the graph is refused, the build fails or its process dies.
    """
    recorder = Recorder("compile", config, source)
    if source.profile == FUSED_PROFILE:
        raise InputError(
            f"{source.path} was quantized for ONNX Runtime on a CPU; make one for TensorRT: edgeres quantize --profile"
            " tensorrt"
        )
    targets = _targets(config)
    path = out_dir / FILE_NAME
    with written(path) as temporary:
        job = _job(source, config, targets, temporary)
        with timed(recorder.results, "build_s"):
            built, messages = _run(job, source)
        _check_header(temporary, config)
    engine = Engine(path)
    manifest = Manifest(
        card=source.card.model_copy(
            update={"stage": "compile", "parent": source.sha256, "edgeres": edgeres.__version__}
        ),
        runtime=config.runtime,
        runtime_version=built.version,
        targets=targets,
        precision=source.precision,
        onnx_sha256=source.sha256,
        plan_sha256=sha256_of(path),
        batch=job.batch,
        inputs=built.inputs,
        outputs=built.outputs,
        build_s=recorder.results["build_s"],
        options={
            "optimization_level": config.optimization_level,
            "workspace_mib": config.workspace_mib,
            "tf32": False,
        },
    )
    write_text(engine.manifest_path, manifest.model_dump_json(indent=1) + "\n")
    recorder.results |= {"runtime": f"{config.runtime} {built.version}", "targets": list(targets)}
    recorder.warnings += messages
    recorder.notes.append("built, not run: an engine runs on its own GPU only")
    log.info("built by %s %s for %s", config.runtime, built.version, ", ".join(targets))
    return StageResult(engine, recorder.finish(engine))


def _targets(config: CompileConfig) -> tuple[str, ...]:
    """Architectures the engine is for, after checking that they can be had here."""
    module, extra = _BINDINGS[config.runtime]
    if config.runtime == "tensorrt-rtx":
        check_rtx_targets(config.targets)
    if importlib.util.find_spec(module) is None:
        raise MissingDependency(module, extra)
    if config.runtime == "tensorrt-rtx":
        return config.targets
    here = local_target()
    if "targets" in config.model_fields_set and config.targets != (here,):
        raise DeviceError(
            f"tensorrt builds for the GPU it runs on ({here}), {','.join(config.targets)} was asked for; build there,"
            " or with --runtime tensorrt-rtx"
        )
    return (here,)


def _job(source: OnnxModel, config: CompileConfig, targets: tuple[str, ...], plan_path: Path) -> BuildJob:
    batch = (config.batch_min, config.batch_opt, config.batch_max)
    return BuildJob(
        module=_BINDINGS[config.runtime][0],
        onnx_path=str(source.path.resolve()),
        plan_path=str(plan_path.resolve()),
        quantized="int8" in source.precision,
        targets=targets if config.runtime == "tensorrt-rtx" else (),
        batch=batch if source.batch is None else (source.batch,) * 3,
        optimization_level=config.optimization_level,
        workspace_mib=config.workspace_mib,
    )


def _run(job: BuildJob, source: OnnxModel) -> tuple[Built, tuple[str, ...]]:
    """Runs the job in a process of its own; what was built and TensorRT's warnings."""
    with tempfile.TemporaryDirectory(prefix="edgeres-") as folder:
        job_path, result_path = Path(folder, "job.json"), Path(folder, "result.json")
        write_text(job_path, job.model_dump_json())
        code, last_line = _run_worker(job_path, result_path)
        if code:
            raise StageError(f"compile: {job.module} {_death(code, last_line)} while building {source.path}")
        result = record_from_json(WorkerResult, result_path)
    if not result.usable:
        raise DeviceError(f"{job.module} is installed but cannot be imported here: {result.error}")
    if result.built is None:
        reason = "; ".join(filter(None, (result.error, *result.messages[:1])))
        raise StageError(f"compile: {job.module} cannot build {source.path}: {reason}")
    return result.built, result.messages


def _run_worker(job_path: Path, result_path: Path) -> tuple[int, str]:
    """The worker's exit code and its last line on stderr; build phases are logged as they begin."""
    command = [sys.executable, "-m", "edgeres.compile.worker", str(job_path), str(result_path)]
    last_line = ""
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace"
    ) as worker:
        try:
            for line in worker.stderr or ():
                if line.startswith(PHASE):
                    log.info("%s", line.removeprefix(PHASE).strip())
                else:
                    last_line = line.strip() or last_line
        except BaseException:
            worker.kill()
            raise
    return worker.returncode, last_line


def _death(code: int, last_line: str) -> str:
    if code > 0:
        return f"failed with exit code {code} ({last_line})"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def _check_header(plan_path: Path, config: CompileConfig) -> None:
    runtime = plan_header(plan_path).runtime
    if runtime != config.runtime:
        raise StageError(f"compile: asked for a {config.runtime} plan, the builder wrote one of {runtime}")
