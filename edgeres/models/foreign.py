"""Reading checkpoints written elsewhere: find the weights, undo prefixes, translate names. Nothing is unpickled.

wrappers   {"state_dict": ...}, {"model": ...}, {"ema": ...}, {"shadow": ...}, nested
prefixes   any: what stands before `layer1.` in every key of the network; two of them are two networks
names      shortcut. -> downsample.; the one linear layer behind the trunk, whatever it is called -> fc.
the rest   buffers that belong to no layer of the network (loss weights, metrics, observers) are left out

A file of torch.export.save is a zip archive whose weights are read as bytes:

    NAME/data/weights/model_weights_config.json    {"config": {key: {"path_name", "use_pickle", "tensor_meta": {"dtype",
                                                   "sizes": [{"as_int"}], "strides", "storage_offset"}}}}
    NAME/data/weights/PATH_NAME                    the tensor's storage
    serialized_state_dict.pt                       all of it up to torch 2.7: a state dict of torch.save

Source: PyTorch, torch/export/pt2_archive/constants.py and torch/_export/serde/schema.py (ScalarType).
"""

from __future__ import annotations

import io
import json
import re
import shlex
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from itertools import takewhile, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from edgeres.core.errors import InputError, did_you_mean, few_of
from edgeres.core.files import free_path
from edgeres.models.class_names import names_in_checkpoint
from edgeres.models.contents import check_content, is_whole_torch, why_unreadable
from edgeres.models.recognise import check_recognised, other_names
from edgeres.models.weights import Weights

_TRUNK = re.compile(r"^((?:.*\.)?)layer1\.")
_LAYER = re.compile(r"(conv1|bn1|bn_last|layer\d+)\.")
_ENTRIES = frozenset({"weight", "bias", "running_mean", "running_var", "num_batches_tracked"})
_OBSERVERS = re.compile(r"quantizer|fake_quant|observer|post_process")
_HEADS = ("fc", "linear", "classifier", "head")
_PREFERRED = ("", "state_dict", "model_state_dict", "model", "net", "module", "weights")
_MAX_DEPTH = 4
_EXPORTED = ".pt2"
_CONFIG, _OLD = "data/weights/model_weights_config.json", "serialized_state_dict.pt"
_TYPES = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
    13: torch.bfloat16,
}


class ForeignWeights(NamedTuple):
    """A state dict of a foreign file, remarks on how it was found, and class names, mean and std the file holds."""

    weights: Weights
    notes: list[str]
    classes: tuple[str, ...]
    feed: tuple[tuple[float, ...], ...] = ()


def read_weights(path: Path, key: str | None = None) -> ForeignWeights:
    """The state dict in a foreign file and what else it says.

    Several state dicts in one file, or networks in one state dict: the usual name wins and the others are noted; `key`
    (dotted, as in the notes) chooses. Raises InputError if the file is absent, needs code to be opened, holds no
    weights, or several networks of which none has the usual name.
    """
    data = _load(path)
    found = _state_dicts(data)
    if not found:
        raise InputError(f"{path} holds no state dict (a mapping from names to tensors)")
    found = {name: one for whole, weights in found.items() for name, one in _networks(whole, weights).items()}
    all_names = ", ".join(sorted(found))
    if key is None:
        key = min(found, key=lambda name: (not _prefixes(found[name]), _rank(name), name))
        others = [name for name, one in found.items() if _prefixes(one)]
        if _rank(key) == len(_PREFERRED) and len(others) > 1:
            raise InputError(f"{path} holds {len(others)} networks; choose one with --key: {', '.join(sorted(others))}")
    elif key not in found:
        named = [name for name in found if name.endswith(f".{key}")]
        if len(named) != 1:
            raise InputError(f"{path} has no state dict {key!r}{did_you_mean(key, found)} (found: {all_names})")
        key = named[0]
    notes = [f"weights taken from {key!r} of {all_names}; choose another with --key"] if len(found) > 1 else []
    return ForeignWeights(found[key], notes, names_in_checkpoint(data), _feed_in(data))


def translated(weights: Weights, where: str) -> tuple[Weights, list[str]]:
    """The network in `weights`, float32, under torchvision's names, and remarks on what it took.

    Raises InputError if there is none, it has no classifier or one of several layers, or a tensor cannot be used.
    """
    prefixes = _prefixes(weights)
    if not prefixes:
        check_recognised({key: tuple(tensor.shape) for key, tensor in weights.items()}, where)
    prefix = min(prefixes, default="")
    named = {key.removeprefix(prefix).replace(".shortcut.", ".downsample."): key for key in weights}
    if len(named) < len(weights):
        lost = next(key for key in weights if key not in named.values())
        raise InputError(f"{where}: {lost} is there twice, with {prefix} and without; save one of them")
    trunk = {name: weights[key] for name, key in named.items() if _LAYER.match(name) and _is_entry(name)}
    rest = {name: weights[key] for name, key in named.items() if name not in trunk}
    head = _head_in(rest, trunk, where)
    inside = _shared(prefix, named[f"{head}.weight"])
    layers = {name for name in rest if named[name].startswith(inside) and _is_layer(name, rest, head)}
    kept = {f"fc.{name.rpartition('.')[2]}" if _container(name) == head else name: rest[name] for name in layers}
    left_out = sorted(named[name] for name in rest if name not in layers)
    network = {name: one.float() if one.is_floating_point() else one for name, one in (trunk | kept).items()}
    _check_values(network, where)
    notes = [f"left out, as they belong to no layer: {few_of(left_out)} ({len(left_out)} in all)"] if left_out else []
    return _with_two_outputs(network, notes), notes


def with_batch_counters(weights: Weights) -> Weights:
    """`weights` with the `num_batches_tracked` that files from before torch 0.4.1 lack."""
    counters = {
        key.replace("running_mean", "num_batches_tracked"): torch.tensor(0)
        for key in weights
        if key.endswith("running_mean")
    }
    return {**counters, **weights}


def shortcut_option(weights: Weights) -> str:
    """A, B or C, told by which modules have a learned projection."""
    modules = {match[0] for key in weights if (match := re.match(r"layer\d+\.\d+(?=\.)", key))}
    projected = {module for module in modules if f"{module}.downsample.0.weight" in weights}
    if not projected:
        return "A"
    return "C" if projected == modules else "B"


def _prefixes(weights: Iterable[str]) -> list[str]:
    """What stands before `layer1.`: one for each network."""
    return sorted({match[1] for key in weights if (match := _TRUNK.match(key))})


def _networks(name: str, weights: Weights) -> dict[str, Weights]:
    """`weights` under its name, or the networks in it, each by the part of its prefix that tells it from the others."""
    prefixes = _prefixes(weights)
    if len(prefixes) < 2:
        return {name: weights}
    parts = [prefix.split(".") for prefix in prefixes]
    differ = next(place for place, words in enumerate(zip_longest(*parts)) if len(set(words)) > 1)
    owners = {"".join(f"{word}." for word in part[: differ + 1] if word) for part in parts}
    owner_of = {key: max((owner for owner in owners if key.startswith(owner)), key=len, default="") for key in weights}
    return {
        f"{name}.{owner}".strip("."): {key: one for key, one in weights.items() if owner_of[key] == owner}
        for owner in sorted(owners)
    }


def _shared(prefix: str, key: str) -> str:
    """The part of a prefix, up to a dot, that `key` begins with too."""
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(prefix.split("."), key.split("."), strict=False))
    return "".join(f"{word}." for word, _ in pairs)


def _rank(name: str) -> int:
    last = name.rpartition(".")[2]
    return _PREFERRED.index(last) if last in _PREFERRED else len(_PREFERRED)


def _is_entry(name: str) -> bool:
    """Whether the key of a trunk is a layer's own, and no buffer that something keeps beside it."""
    return name.rpartition(".")[2] in _ENTRIES and not _OBSERVERS.search(name)


def _features_of(trunk: Weights) -> int:
    """Channels that leave the last module."""
    convs = {
        tuple(map(int, re.findall(r"\d+", name))): one
        for name, one in trunk.items()
        if re.search(r"\.conv\d*\.weight$", name)
    }
    return convs[max(convs)].shape[0] if convs else 0


def _head_in(rest: Weights, trunk: Weights, where: str) -> str:
    """The name of the one linear layer behind the trunk; raises InputError if there is none, or there are several."""
    features = _features_of(trunk)
    linear = {_container(name): one for name, one in rest.items() if name.endswith(".weight") and one.ndim == 2}
    fed = [name for name, one in linear.items() if one.shape[1] == features]
    if not features:
        own = sorted(name for name in trunk if name.startswith("layer"))
        raise InputError(f"{where} has no convolutions under known names; its modules have {other_names(own, where)}")
    if not fed:
        keys = few_of(sorted(rest)) or "none"
        raise InputError(
            f"{where} has no classifier, a linear layer behind its {features} features (other keys: {keys})"
        )
    head = next((name for name in _HEADS if name in fed), fed[0])
    outputs, around = linear[head].shape[0], _container(head)
    others = [
        name for name, one in linear.items() if one.shape[1] == outputs or (around and _container(name) == around)
    ]
    layers = dict.fromkeys([head, *others, *([] if head in _HEADS else fed)])
    if len(layers) == 1:
        return head
    sizes = ", ".join(f"{name} {linear[name].shape[1]} -> {linear[name].shape[0]}" for name in layers)
    raise InputError(
        f"{where} has {len(layers)} linear layers behind the trunk ({sizes}); one is rebuilt here. Export it to ONNX"
        " where it was made: calibrate, quantize and lint take that"
    )


def _container(name: str) -> str:
    return name.rpartition(".")[0]


def _is_layer(name: str, rest: Weights, head: str) -> bool:
    """Whether the entry is part of what the network computes: it is kept, and refused later if that has no place."""
    module, around = _container(name), _container(head)
    if not _is_entry(name):
        return False
    if module == head or (around and _container(module) == around):
        return True
    return f"{module}.running_mean" in rest or (name.endswith(".weight") and rest[name].ndim >= 2)


def _with_two_outputs(network: Weights, notes: list[str]) -> Weights:
    """A missing bias is 0; one output z under a sigmoid is two classes under a softmax, 0 and z."""
    weight = network["fc.weight"]
    bias = network.get("fc.bias")
    if bias is None:
        bias = torch.zeros(len(weight))
        notes.append("the classifier has no bias: 0 was put in")
    if len(weight) == 1:
        weight, bias = (torch.cat([torch.zeros_like(one), one]) for one in (weight, bias))
        notes.append("one output (a sigmoid) was made two classes: the second where the output is above 0")
    return network | {"fc.weight": weight, "fc.bias": bias}


def _check_values(weights: Weights, where: str) -> None:
    """Raises InputError if a tensor is quantized, sparse, without values, or holds what a network cannot."""
    for key, tensor in weights.items():
        what = None
        if tensor.is_quantized:
            what = "is quantized; save the float network's weights, edgeres quantizes them itself"
        elif tensor.layout != torch.strided:
            what = "is sparse; save it with .to_dense()"
        elif tensor.is_meta:
            what = "has a shape and no values (device meta); save it after the weights are loaded"
        elif not tensor.is_floating_point() and not key.endswith("num_batches_tracked"):
            what = f"holds {str(tensor.dtype).removeprefix('torch.')}, not floating-point numbers"
        elif not torch.isfinite(tensor).all():
            what = "holds values that are not finite"
        elif key.endswith("running_var") and tensor.min() < 0:
            what = f"holds a variance below 0 ({tensor.min():g}); the file is damaged, or these are no batch norms"
        if what:
            raise InputError(f"{where}: {key} {what}")


def _load(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"{path} does not exist")
    check_content(path)
    if path.suffix.lower() == _EXPORTED:
        return exported_weights(path)
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
    if not is_whole_torch(path) or not (unsafe or ("weights_only" in text.lower() and "unsupported" in text.lower())):
        return why_unreadable(path)
    what = f" ({unsafe[1]})" if unsafe else ""
    refused = f"{path} holds Python objects{what} and would run code when opened; refused. "
    if _holds_a_module(path):
        return f"{refused}Where it was made, save the weights alone: torch.save(model.state_dict(), FILE)"
    return f"{refused}This takes its tensors and plain values and runs none of that code: {_conversion(path)}"


def _holds_a_module(path: Path) -> bool:
    """Whether a whole network was pickled, or the file is too old for torch to list what is in it."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # whatever a strange pickle makes torch raise; it is refused either way
        return True
    return any(re.match(r"torch\.nn\.modules|__main__|__torch__", name) for name in names)


def _conversion(path: Path) -> str:
    """A command that opens the file with an inert class in place of every class in it, and saves what is plain.

    So class names in it are kept. A scalar of numpy is such a class of two: a dtype made from its name, and bytes.
    """
    name, out = json.dumps(str(path)), json.dumps(str(free_path(path.with_suffix(".plain.pth"))))
    code = (
        f'import numpy, torch, torch.serialization as s; f = {name}; p = type("Plain", (), {{"a": (), "__new__": lambda'
        ' c, *a: setattr(o := object.__new__(c), "a", a) or o, "__setstate__": lambda *a: None}); s.add_safe_globals('
        "[(p, n) for n in s.get_unsafe_globals_in_checkpoint(f)]); k = lambda v: {k(n): k(w) for n, w in v.items()} if"
        " isinstance(v, dict) else [k(w) for w in v] if isinstance(v, (list, tuple)) else v if isinstance(v,"
        " (torch.Tensor, str, int, float)) else numpy.frombuffer(v.a[1], v.a[0].a[0])[0].item() if isinstance(v, p) and"
        " [type(w) for w in v.a] == [p, bytes] else None;"
        f' w = k(torch.load(f, "cpu", weights_only=True)); open({out}, "x").close(); torch.save(w, {out})'
    )
    return f"python -c {shlex.quote(code)}"


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


def _feed_in(data: Any, depth: int = 0) -> tuple[tuple[float, ...], ...]:
    """(mean, std) of the channels, that a checkpoint holds beside its weights; empty if it holds none."""
    if not isinstance(data, Mapping) or depth > _MAX_DEPTH:
        return ()
    pair = [data.get(name) for name in ("mean", "std")]
    lists = [one.flatten().tolist() if isinstance(one, Tensor) else one for one in pair]
    rows = [one for one in lists if isinstance(one, list | tuple) and all(isinstance(x, int | float) for x in one)]
    if len(rows) == len(pair):
        return tuple(tuple(map(float, one)) for one in rows)
    return next((found for value in data.values() if (found := _feed_in(value, depth + 1))), ())


def exported_weights(path: Path) -> dict[str, Tensor]:
    """The state dict in `path`; raises InputError if there is none that can be read so."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if _OLD in names:
                found: dict[str, Tensor] = torch.load(
                    io.BytesIO(archive.read(_OLD)), map_location="cpu", weights_only=True
                )
                return found
            config = next((name for name in names if name.endswith(_CONFIG)), None)
            if config is None:
                raise InputError(f"{path} is no file of torch.export.save, or cut off: it holds no {_CONFIG}")
            tensors = json.loads(archive.read(config))["config"]
            folder = config.rpartition("/")[0]
            return {key: _tensor(archive, folder, key, entry) for key, entry in tensors.items()}
    except InputError as err:
        raise InputError(f"{path}: {err}" if str(path) not in str(err) else str(err)) from err
    except MemoryError:
        raise
    except Exception as err:  # zipfile, json, torch and what a damaged file has in place of a number raise their own
        raise InputError(f"{path} is cut off or damaged; copy it again from where it was made ({err})") from err


def _tensor(archive: zipfile.ZipFile, folder: str, key: str, entry: dict[str, Any]) -> Tensor:
    meta = entry["tensor_meta"]
    if entry["use_pickle"] or meta["dtype"] not in _TYPES:
        raise InputError(
            f"{key} is no plain tensor; where it was made, save the weights alone: torch.save(model.state_dict(), FILE)"
        )
    content = bytearray(archive.read(f"{folder}/{entry['path_name']}"))
    sizes, strides = ([int(one["as_int"]) for one in meta[name]] for name in ("sizes", "strides"))
    flat = torch.frombuffer(content, dtype=_TYPES[meta["dtype"]]) if content else torch.empty(0)
    return flat.as_strided(sizes, strides, int(meta["storage_offset"]["as_int"])).clone()
