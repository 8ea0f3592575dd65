"""One tiny Runner per runtime; RUNTIMES says which executes which artifact."""

from __future__ import annotations

from edgeres.core.artifacts import Checkpoint, Engine, Model, OnnxModel
from edgeres.core.errors import DeviceError, InputError
from edgeres.core.names import lookup, resolve
from edgeres.runtime.runner import Runner, RunnerOptions

RUNTIMES: dict[str, tuple[type[Model], str]] = {
    "torch": (Checkpoint, "edgeres.runtime.pytorch:TorchRunner"),
    "onnxruntime": (OnnxModel, "edgeres.runtime.ort:OrtRunner"),
}


def runtime_of(model: Model) -> str:
    """The runtime that executes `model` here; raises DeviceError for an engine, which needs its own GPU."""
    if isinstance(model, Engine):
        targets = ", ".join(model.manifest.targets)
        raise DeviceError(
            f"{model.path.name} is a {model.manifest.runtime} engine for {targets}: edgeres {_version()} builds engines but"
            " does not run them; judge its accuracy on the ONNX file it was built from"
        )
    for name, (kind, _) in RUNTIMES.items():
        if isinstance(model, kind):
            return name
    raise InputError(f"no runtime executes {model.path}")


def runner_for(model: Model, options: RunnerOptions | None = None) -> Runner:
    """A Runner to be entered with `with`; nothing is loaded before that."""
    _, reference = lookup(RUNTIMES, runtime_of(model), "runtime")
    runner: Runner = resolve(reference)(model, options or RunnerOptions())
    return runner


def _version() -> str:
    import edgeres

    return edgeres.__version__
