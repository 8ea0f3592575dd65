"""TensorRT in processes of their own: it may crash, and then there is a sentence about it.

What the inspector says of a plan is kept beside it as NAME.plan.layers.json.
"""

from __future__ import annotations

import importlib.util
import logging
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from edgeres.compile.config import BuildJob, Built, CompileConfig, check_rtx_targets
from edgeres.compile.layer_report import layer_report
from edgeres.compile.layers import layers_from, layers_path, plan_of
from edgeres.compile.worker import PHASE, WorkerResult
from edgeres.core.artifacts import Engine, OnnxModel
from edgeres.core.config import record_from_json
from edgeres.core.errors import DeviceError, InputError, StageError
from edgeres.core.files import write_text
from edgeres.core.lineage import advised, source_of
from edgeres.core.stage import Recorder
from edgeres.runtime.manifest import LayerCounts, manifest_of

_TURING = "sm75"
_RTX = "tensorrt_rtx"

log = logging.getLogger(__name__)


def build_apart(job: BuildJob, source: Path) -> tuple[Built, tuple[str, ...]]:
    """What was built from `source`, and TensorRT's warnings.

    Raises:
        DeviceError: the binding is installed and cannot be imported here.
        StageError: the graph is refused, the build fails or its process dies.
    """
    result = attempt(job)
    if result.died:
        raise StageError(f"compile: {job.module} {result.error} while building {source}")
    if not result.usable:
        raise DeviceError(f"{job.module} is installed but cannot be imported here: {result.error}")
    if result.built is None:
        raise StageError(f"compile: {job.module} cannot build {source}: {_reason(job, result)}")
    return result.built, result.messages


def attempt(job: BuildJob) -> WorkerResult:
    """What the process that builds answers, or how it died."""
    with tempfile.TemporaryDirectory(prefix="edgeres-") as folder:
        job_path, result_path = Path(folder, "job.json"), Path(folder, "result.json")
        write_text(job_path, job.model_dump_json())
        code, last_line = _run("build", str(job_path), str(result_path))
        if code:
            return WorkerResult(died=True, error=death(code, last_line))
        return record_from_json(WorkerResult, result_path)


def tried(path: Path, targets: tuple[str, ...]) -> tuple[str, str | None] | None:
    """(who built the Q/DQ file `path` for all of `targets`, what was refused); None without TensorRT-RTX.

    Raises InputError for an architecture that it does not build for.
    """
    check_rtx_targets(targets)
    if importlib.util.find_spec(_RTX) is None:
        return None
    defaults, who = CompileConfig(), f"{_RTX} for {', '.join(targets)}"
    with tempfile.TemporaryDirectory(prefix="edgeres-") as folder:
        job = BuildJob(
            module=_RTX,
            onnx_path=str(path.resolve()),
            plan_path=str(Path(folder, "model.plan")),
            quantized=True,
            targets=targets,
            batch=(defaults.batch_min, defaults.batch_opt, defaults.batch_max),
        )
        result = attempt(job)
    if result.died:
        return who, f"its process {result.error}"
    if result.built is None:
        return who, "; ".join(filter(None, (result.error, *result.messages[:1])))
    return who.replace(_RTX, f"{_RTX} {result.built.version}"), None


def inspected(module: str, plan: Path) -> str:
    """Writes the inspector's JSON beside the plan; why there is none, or an empty string."""
    code, last_line = _run("inspect", module, str(plan.resolve()), str(layers_path(plan).resolve()))
    refused = last_line if code > 0 else ""
    return refused or (f"the inspector {death(code, last_line)}" if code else "")


def layer_counts(plan: Path, source: OnnxModel, recorder: Recorder, problem: str) -> LayerCounts | None:
    """What a manifest keeps of the inspector's JSON beside `plan`; said in the build's report, as is a `problem`."""
    try:
        report = None if problem else layer_report(layers_from(layers_path(plan)), source.proto)
    except InputError as err:
        report, problem = None, str(err)
    if report is None:
        recorder.warnings.append(f"no layer report: {problem}")
        return None
    recorder.results["layers"] = report.headline
    return LayerCounts(kernels=report.kernels, reformats=report.reformats, headline=report.headline)


def check_graph(described: Path, model: OnnxModel) -> None:
    """Of a plan, or what lies beside one as NAME.plan.layers.json: raises InputError if it came from another graph."""
    engine = Engine(plan_of(described))
    if engine.path.suffix != ".plan" or not engine.manifest_path.is_file():
        return
    built_from = manifest_of(engine).onnx_sha256
    if built_from != model.sha256:
        raise InputError(
            f"{engine.path} was built from another graph (sha256 {built_from[:12]}) than {model.path}"
            f" ({model.sha256[:12]}); give --onnx the one it came from"
        )


def death(code: int, last_line: str) -> str:
    """How a process ended that did not end well: `was killed by SIGSEGV`."""
    if code > 0:
        return f"failed with exit code {code} ({last_line})"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        return f"was killed by signal {-code}"
    return f"was killed by {name}" + (" (memory ran out?)" if name == "SIGKILL" else "")


def _reason(job: BuildJob, result: WorkerResult) -> str:
    said = " ".join(result.messages).lower()
    telling = [message for message in result.messages if "workspace" in message.lower()] or list(result.messages)
    parts = [result.error, *telling[:1]]
    if job.workspace_mib is not None and "workspace" in said:
        parts.append(f"--workspace-mib {job.workspace_mib} may be too little, leave it out or give more")
    if _TURING in job.targets and "fp32 gemm is not supported" in said:
        source = source_of(Path(job.onnx_path))
        half = f"{advised('edgeres export', source or 'CHECKPOINT')} --half"
        int8 = f"{advised('edgeres quantize', source or 'FLOAT.onnx')} --profile tensorrt-fp16"
        way = int8 if job.quantized else half
        parts.append(f"for {_TURING} give it a graph in FP16: {way}")
    return "; ".join(filter(None, parts))


def _run(*arguments: str) -> tuple[int, str]:
    """The worker's exit code and its last line on stderr; build phases are logged as they begin."""
    command = [sys.executable, "-m", "edgeres.compile.worker", *arguments]
    last_line = ""
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace"
    ) as process:
        try:
            for line in process.stderr or ():
                if line.startswith(PHASE):
                    log.info("%s", line.removeprefix(PHASE).strip())
                else:
                    last_line = line.strip() or last_line
        except BaseException:
            process.kill()
            raise
    return process.returncode, last_line
