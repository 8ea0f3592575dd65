"""One tiny Runner per runtime; RUNTIMES says which executes which artifact."""

from __future__ import annotations

import edgeres
from edgeres.core.artifacts import Checkpoint, Engine, Model, OnnxModel
from edgeres.core.errors import DeviceError, InputError, require
from edgeres.core.names import resolve
from edgeres.runtime.runner import Runner, RunnerOptions

# runtime, what it executes, the Runner, the extra that brings the package of the runtime's name; the first that
# executes an artifact is its default
RUNTIMES: tuple[tuple[str, type[Model], str, str], ...] = (
    ("torch", Checkpoint, "edgeres.runtime.pytorch:TorchRunner", "train"),
    ("onnxruntime", OnnxModel, "edgeres.runtime.ort:OrtRunner", "onnx"),
    ("torch", OnnxModel, "edgeres.runtime.graph_runner:GraphRunner", "train"),
)


def runtime_of(model: Model) -> str:
    """The runtime that executes `model` here unless another is asked for.

    Raises:
        DeviceError: an engine, which needs its own GPU.
    """
    if isinstance(model, Engine):
        targets = ", ".join(model.manifest.targets)
        raise DeviceError(
            f"{model.path.name} is a {model.manifest.runtime} engine for {targets}: edgeres {edgeres.__version__}"
            " builds engines but does not run them; judge its accuracy on the ONNX file it was built from"
        )
    return _names(model)[0]


def runner_for(model: Model, options: RunnerOptions | None = None, *, runtime: str | None = None) -> Runner:
    """A Runner to be entered with `with`, of `runtime` or the default one; nothing is loaded before that.

    Raises:
        InputError: `runtime` does not execute this kind of file.
    """
    wanted = runtime or runtime_of(model)
    for name, kind, reference, extra in RUNTIMES:
        if name == wanted and isinstance(model, kind):
            require(name, extra)
            runner: Runner = resolve(reference)(model, options or RunnerOptions())
            return runner
    raise InputError(f"{wanted} does not execute {model.path} (what does: {', '.join(_names(model))})")


def _names(model: Model) -> list[str]:
    names = [name for name, kind, _, _ in RUNTIMES if isinstance(model, kind)]
    if not names:
        raise InputError(f"no runtime executes {model.path}")
    return names
