"""TensorRT in processes of their own: it may crash, and then there is a sentence about it."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from edgeres.compile.job import BuildJob, Built
from edgeres.compile.worker import PHASE, WorkerResult
from edgeres.core.config import record_from_json
from edgeres.core.errors import DeviceError, StageError
from edgeres.core.files import write_text

_TURING = "sm75"

log = logging.getLogger(__name__)


def build_apart(job: BuildJob, source: Path) -> tuple[Built, tuple[str, ...]]:
    """What was built from `source`, and TensorRT's warnings.

    Raises:
        DeviceError: the binding is installed and cannot be imported here.
        StageError: the graph is refused, the build fails or its process dies.
    """
    with tempfile.TemporaryDirectory(prefix="edgeres-") as folder:
        job_path, result_path = Path(folder, "job.json"), Path(folder, "result.json")
        write_text(job_path, job.model_dump_json())
        code, last_line = _run("edgeres.compile.worker", str(job_path), str(result_path))
        if code:
            raise StageError(f"compile: {job.module} {death(code, last_line)} while building {source}")
        result = record_from_json(WorkerResult, result_path)
    if not result.usable:
        raise DeviceError(f"{job.module} is installed but cannot be imported here: {result.error}")
    if result.built is None:
        raise StageError(f"compile: {job.module} cannot build {source}: {_reason(job, result)}")
    return result.built, result.messages


def inspect_apart(module: str, plan: Path, out: Path) -> str | None:
    """Writes the inspector's JSON about `plan` to `out`; None, or why there is none."""
    code, last_line = _run("edgeres.compile.inspection", module, str(plan), str(out))
    if code < 0:
        return f"the inspector {death(code, last_line)}"
    return last_line or f"the inspector {death(code, last_line)}" if code else None


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
        way = "edgeres quantize --profile tensorrt-fp16" if job.quantized else "edgeres export --half"
        parts.append(f"for {_TURING} give it a graph in FP16: {way}")
    return "; ".join(filter(None, parts))


def _run(module: str, *arguments: str) -> tuple[int, str]:
    """The process's exit code and its last line on stderr; build phases are logged as they begin."""
    command = [sys.executable, "-m", module, *arguments]
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
