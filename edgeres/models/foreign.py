"""Reading checkpoints written elsewhere: find the weights, undo prefixes, translate names. Nothing is unpickled.

wrappers   {"state_dict": ...}, {"model": ...}, {"ema": ...}, {"shadow": ...}, nested
prefixes   module.  model.  _orig_mod.  net.  backbone.   (DataParallel, Lightning, torch.compile, ...)
names      linear. / classifier. / head. -> fc.    shortcut. -> downsample.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from edgeres.core.errors import InputError, did_you_mean
from edgeres.models.contents import check_content, is_whole_torch, why_unreadable

Weights = dict[str, Tensor]
_PREFIX = re.compile(r"^(?:module|model|_orig_mod|net|backbone|encoder)\.")
_RENAMES = (
    (re.compile(r"^(?:linear|classifier|head)\."), "fc."),
    (re.compile(r"\.shortcut\."), ".downsample."),
)
_BOOKKEEPING = {"n_averaged"}  # of torch.optim.swa_utils.AveragedModel
_PREFERRED = ("", "state_dict", "model_state_dict", "model", "net", "module", "weights")
_MAX_DEPTH = 4


def read_weights(path: Path, key: str | None = None) -> tuple[Weights, list[str]]:
    """The state dict in a foreign file and notes on what was found.

    Several state dicts in one file: the usual name wins and the others are noted; `key` (dotted, as in the notes)
    chooses. Raises InputError if the file is absent, needs code to be opened, or holds no weights.
    """
    found = _state_dicts(_load(path))
    if not found:
        raise InputError(f"{path} holds no state dict (a mapping from names to tensors)")
    if key is None:
        key = min(found, key=lambda name: (_PREFERRED.index(name) if name in _PREFERRED else 99, name))
    elif key not in found:
        raise InputError(f"{path} has no state dict {key!r}{did_you_mean(key, found)} (found: {_names(found)})")
    notes = [f"weights taken from {key!r} of {_names(found)}; choose another with --key"] if len(found) > 1 else []
    return found[key], notes


def translated(weights: Weights) -> Weights:
    """`weights` in float32 under torchvision's names; raises InputError if two keys become one."""
    result: Weights = {}
    for key, tensor in weights.items():
        name = key
        while _PREFIX.match(name):
            name = _PREFIX.sub("", name)
        for pattern, replacement in _RENAMES:
            name = pattern.sub(replacement, name)
        if name in _BOOKKEEPING:
            continue
        if name in result:
            raise InputError(f"two entries of the checkpoint become {name!r}, the second is {key!r}")
        result[name] = tensor.float() if tensor.is_floating_point() else tensor
    return result


def with_batch_counters(weights: Weights) -> Weights:
    """`weights` with the `num_batches_tracked` that files from before torch 0.4.1 lack."""
    counters = {
        key.replace("running_mean", "num_batches_tracked"): torch.tensor(0)
        for key in weights
        if key.endswith("running_mean")
    }
    return {**counters, **weights}


def check_values(weights: Weights, path: Path) -> None:
    """Raises InputError if a tensor holds NaN or infinity."""
    for key, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise InputError(f"{path}: {key} holds values that are not finite")


def shortcut_option(weights: Weights) -> str:
    """A, B or C, told by which modules have a learned projection."""
    modules = {match[0] for key in weights if (match := re.match(r"layer\d+\.\d+(?=\.)", key))}
    projected = {module for module in modules if f"{module}.downsample.0.weight" in weights}
    if not projected:
        return "A"
    return "C" if projected == modules else "B"


def _load(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"{path} does not exist")
    check_content(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as err:  # torch.load and safetensors raise whatever they meet in a damaged file
        raise InputError(_refusal(path, err)) from err


def _refusal(path: Path, err: Exception) -> str:
    text = " ".join(str(err).split())
    unsafe = re.search(r"(?:Unsupported global: GLOBAL|Unsupported class|GLOBAL) ([\w.]+)", text)
    if is_whole_torch(path) and (unsafe or ("weights_only" in text.lower() and "unsupported" in text.lower())):
        what = f" ({unsafe[1]})" if unsafe else ""
        return (
            f"{path} holds Python objects{what} and would run code when opened; refused. Where it was made, save the"
            " weights alone: torch.save(model.state_dict(), FILE)"
        )
    return why_unreadable(path)


def _state_dicts(data: Any, prefix: str = "", depth: int = 0) -> dict[str, Weights]:
    if not isinstance(data, Mapping) or depth > _MAX_DEPTH:
        return {}
    tensors = {str(key): value for key, value in data.items() if isinstance(value, Tensor)}
    if any("." in key for key in tensors):
        return {prefix: tensors}
    found: dict[str, Weights] = {}
    for key, value in data.items():
        found |= _state_dicts(value, f"{prefix}.{key}" if prefix else str(key), depth + 1)
    return found


def _names(found: Mapping[str, Weights]) -> str:
    return ", ".join(sorted(found)) or "none"
