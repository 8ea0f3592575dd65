"""One tiny Runner per runtime; RUNTIMES says which executes which artifact."""

from __future__ import annotations

import edgeres
from edgeres.core.artifacts import Checkpoint, Engine, Model, OnnxModel
from edgeres.core.errors import DeviceError, InputError, require
from edgeres.core.names import lookup, resolve
from edgeres.runtime.runner import Runner, RunnerOptions

# runtime -> what it executes, the Runner, the extra that brings the package of the runtime's name
RUNTIMES: dict[str, tuple[type[Model], str, str]] = {
    "torch": (Checkpoint, "edgeres.runtime.pytorch:TorchRunner", "train"),
    "onnxruntime": (OnnxModel, "edgeres.runtime.ort:OrtRunner", "onnx"),
}


def runtime_of(model: Model) -> str:
    """The runtime that executes `model` here; raises DeviceError for an engine, which needs its own GPU."""
    if isinstance(model, Engine):
        targets = ", ".join(model.manifest.targets)
        raise DeviceError(
            f"{model.path.name} is a {model.manifest.runtime} engine for {targets}: edgeres {edgeres.__version__}"
            " builds engines but does not run them; judge its accuracy on the ONNX file it was built from"
        )
    for name, (kind, _, _) in RUNTIMES.items():
        if isinstance(model, kind):
            return name
    raise InputError(f"no runtime executes {model.path}")


def runner_for(model: Model, options: RunnerOptions | None = None) -> Runner:
    """A Runner to be entered with `with`; nothing is loaded before that."""
    name = runtime_of(model)
    _, reference, extra = lookup(RUNTIMES, name, "runtime")
    require(name, extra)
    runner: Runner = resolve(reference)(model, options or RunnerOptions())
    return runner
