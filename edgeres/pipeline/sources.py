"""What a stage is given, looked at before a run is made: finite weights, and modules that are missing already."""

from __future__ import annotations

from edgeres.core.artifacts import Checkpoint, Model
from edgeres.core.errors import InputError, require
from edgeres.core.runs import Run

_NAMES_SHOWN = 6


def check_finite(model: Model | None) -> None:
    """Raises InputError that names the first tensor of a checkpoint with NaN or infinity; others are not read."""
    if not isinstance(model, Checkpoint):
        return
    torch = require("torch", "train")
    from edgeres.models.weights import load_weights

    for name, tensor in load_weights(model).items():
        if not torch.isfinite(tensor).all():
            what = "NaN" if torch.isnan(tensor).any() else "infinity"
            raise InputError(
                f"{model.path}: {name} holds {what}: the training that made it diverged, or the file is damaged"
            )


def lacking(stage: str, source: Model, run: Run | None) -> str | None:
    """A warning where pruning, asked for without a source, goes on from what is already pruned."""
    dropped = source.spec.dropped
    if stage not in {"prune", "sweep"} or not dropped:
        return None
    names = ", ".join(dropped[:_NAMES_SHOWN]) + (", ..." if len(dropped) > _NAMES_SHOWN else "")
    modules = f"{len(dropped)} module{'' if len(dropped) == 1 else 's'}"
    models = [model for _, model in run.models()] if run else []
    whole = next((one for one in reversed(models) if isinstance(one, Checkpoint) and not one.spec.dropped), None)
    other = f"; to start from the whole network: edgeres prune {whole.path}" if whole else ""
    return f"{source.path} was taken, which already lacks {modules} ({names}){other}"
