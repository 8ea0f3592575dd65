"""One tiny Runner per runtime; RUNTIMES says which executes which artifact."""

from __future__ import annotations

import logging

from edgeres.core.artifacts import Checkpoint, Engine, Model, OnnxModel
from edgeres.core.errors import InputError, require
from edgeres.core.names import resolve
from edgeres.runtime.runner import Runner, RunnerOptions

# runtime, what it executes, the Runner, the extra that brings the package of the runtime's name; the first that
# executes an artifact is its default, but an engine's is the one it was built for
RUNTIMES: tuple[tuple[str, type[Model], str, str], ...] = (
    ("torch", Checkpoint, "edgeres.runtime.pytorch:TorchRunner", "train"),
    ("onnxruntime", OnnxModel, "edgeres.runtime.ort:OrtRunner", "onnx"),
    ("torch", OnnxModel, "edgeres.runtime.pytorch:TorchRunner", "train"),
    ("tensorrt", Engine, "edgeres.runtime.tensorrt:TensorRtRunner", "tensorrt"),
    ("tensorrt-rtx", Engine, "edgeres.runtime.tensorrt:TensorRtRunner", "rtx"),
)

log = logging.getLogger(__name__)


def runtime_of(model: Model) -> str:
    """The runtime that executes `model` here unless another is asked for.

    Raises:
        DeviceError: an engine that cannot run here; says why and which command builds one that can.
        InputError: a plan that is none, or whose manifest belongs to another.
    """
    return _runtime_of_engine(model, None) if isinstance(model, Engine) else _names(model)[0]


def runner_for(model: Model, options: RunnerOptions | None = None, *, runtime: str | None = None) -> Runner:
    """A Runner to be entered with `with`, of `runtime` or the default one; nothing is loaded before that.

    Raises:
        InputError: `runtime` does not execute this kind of file.
        DeviceError: an engine that cannot run here, as `runtime_of` says it.
    """
    if runtime is not None and runtime not in _names(model):
        raise InputError(f"{runtime} does not execute {model.path} (what does: {', '.join(_names(model))})")
    wanted = _runtime_of_engine(model, runtime) if isinstance(model, Engine) else runtime or runtime_of(model)
    reference, extra = next(
        (reference, extra) for name, kind, reference, extra in RUNTIMES if name == wanted and isinstance(model, kind)
    )
    if not isinstance(model, Engine):  # whose runtime was found to be installed
        require(wanted, extra)
    runner: Runner = resolve(reference)(model, options or RunnerOptions())
    return runner


def _runtime_of_engine(engine: Engine, asked: str | None) -> str:
    from edgeres.runtime.manifest import check_runnable, plan_header, this_host

    for remark in check_runnable(engine.path, this_host(), asked):
        log.warning("%s: %s", engine.path, remark)
    return plan_header(engine.path).runtime


def _names(model: Model) -> list[str]:
    names = [name for name, kind, _, _ in RUNTIMES if isinstance(model, kind)]
    if not names:
        raise InputError(f"no runtime executes {model.path}")
    return names
