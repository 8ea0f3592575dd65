"""TensorRT in a process of its own, which it may crash; it prints on stdout and keeps one logger for good.

    python -m edgeres.compile.worker build JOB.json RESULT.json
    python -m edgeres.compile.worker inspect MODULE PLAN OUT.json    only where the plan can be loaded: on its GPU

Build phases are written to stderr, one line each, behind PHASE; so is why a plan cannot be inspected, with exit code 1.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from edgeres.compile.builder import build
from edgeres.compile.config import BuildError, BuildJob, Built
from edgeres.core.config import Record, record_from_json
from edgeres.core.files import write_bytes, write_text
from edgeres.runtime.engine import logger_of

PHASE = "phase: "
TORCH_TENSORRT = "torch_tensorrt"
_NOISE = "checkMacros.cpp::catchCudaError"  # follows every error on a machine without a driver
_MOST_MESSAGES = 20
_VARYING = re.compile(r"\d+|'[^']*'|\"[^\"]*\"|\S*[./]\S*(?=\s|$)")  # numbers, quoted names, names of nodes and files


class WorkerResult(Record):
    """`error` is None after success; `usable`: the binding could be imported; `messages` are TensorRT's.

    `died`: there was no answer, `error` is how the process ended.
    """

    error: str | None = None
    died: bool = False
    usable: bool = True
    built: Built | None = None
    messages: tuple[str, ...] = ()


def inspect(module: str, plan: str, out: str) -> str | None:
    """Writes the inspector's JSON; None, or why there is none."""
    try:
        trt = importlib.import_module(module)
    except (ImportError, OSError) as err:
        return f"{module} cannot be imported: {' '.join(str(err).split())}"
    logger = logger_of(trt, trt.ILogger.Severity.WARNING)
    text = layer_information(trt, Path(plan).read_bytes(), logger)
    if text is None:
        return "; ".join(["the engine cannot be loaded here", *_said(logger)[:1]])
    write_text(Path(out), text if text.endswith("\n") else text + "\n")
    return None


def layer_information(trt: Any, plan: bytes, logger: Any) -> str | None:
    """The engine inspector's JSON about `plan`, or None if it cannot be loaded."""
    runtime = trt.Runtime(logger)
    runtime.engine_host_code_allowed = True  # a version-compatible plan carries a runtime of its own
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        return None
    return str(engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))


def _result(job: BuildJob) -> WorkerResult:
    try:
        binding = importlib.import_module(job.module)
    except (ImportError, OSError, RuntimeError) as err:  # torch_tensorrt asks for the GPU when it is imported
        return WorkerResult(error=" ".join(str(err).split()), usable=False)
    is_torch = job.module == TORCH_TENSORRT
    logger = None if is_torch else logger_of(binding, binding.ILogger.Severity.WARNING)
    try:
        if is_torch:
            from edgeres.compile.torch_trt import build_with_torch

            plan, built = build_with_torch(binding, job)
        else:
            plan, built = build(binding, job, logger, lambda phase: click.echo(f"{PHASE}{phase}", err=True))
    except BuildError as err:
        return WorkerResult(error=str(err), messages=distinct(_said(logger)))
    write_bytes(Path(job.plan_path), plan)
    return WorkerResult(built=built, messages=distinct(_said(logger)))


def _said(logger: Any) -> list[str]:
    return [message for message in (logger.messages if logger else ()) if _NOISE not in message]


def distinct(messages: Sequence[str]) -> tuple[str, ...]:
    """Each message once, in order of appearance, with how often it came; at most `_MOST_MESSAGES` of them.

    Messages that differ only in a name or number in them are one: the parser says the same of every node.
    """
    groups: dict[str, list[str]] = {}
    for message in messages:
        groups.setdefault(_VARYING.sub("", message), []).append(message)
    shown = [f"{same[0]} ({len(same)} times)" if len(same) > 1 else same[0] for same in groups.values()]
    more = len(shown) - _MOST_MESSAGES
    return tuple(shown[:_MOST_MESSAGES]) + ((f"and {more} more of other kinds",) if more > 0 else ())


def main(task: str, *arguments: str) -> str | None:
    """None, or why there is no answer."""
    if task == "inspect":
        return inspect(*arguments)
    job, answer = map(Path, arguments)
    write_text(answer, _result(record_from_json(BuildJob, job)).model_dump_json())
    return None


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
