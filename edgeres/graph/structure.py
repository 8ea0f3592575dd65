"""A network's graph without its weights: what a checkpoint of any network carries, and the graph with them again.

    packed      the graph as text: a serialised onnx.ModelProto, deflated, in base64; data, never code
    weights     float tensors under the user's own names: `layer1.0.conv1.weight`, `layer1.0.bn1.running_mean`, ...

A layer (Conv, Gemm, BatchNormalization) is called what its weight is called before `.weight`, or what its node is. Its
parameters have torch's names. Numbers that say how a node works (shapes, bounds, exponents) stay in the graph.
"""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from edgeres.core.errors import InputError
from edgeres.core.onnx_file import tensors_in
from edgeres.graph.draft import Draft, free_of
from edgeres.graph.normal import fold_batch_norms
from edgeres.graph.view import GraphView

PARAMETERS = {
    "Conv": ("weight", "bias"),
    "Gemm": ("weight", "bias"),
    "BatchNormalization": ("weight", "bias", "running_mean", "running_var"),
}
_BESIDE = "weights"  # where a tensor's numbers are said to lie; no file is called so
_MOST_BYTES = 64 << 20  # of a graph without weights; ResNet-152's has 160 kB
_PART = re.compile(r"[^A-Za-z0-9_]")
_SWITCH = frozenset({"Clip", "Pad", "Resize", "Slice", "Reshape", "Pow"})  # what they read besides is how they work
Weights = dict[str, NDArray[np.float32]]


def taken_apart(model: onnx.ModelProto, taken: Collection[str]) -> tuple[onnx.ModelProto, Weights]:
    """(`model` without weights, the weights by name); no part of a name is one of `taken`."""
    draft = Draft(model)
    names = _names(draft.view(), taken)
    for node in draft.nodes:
        node.input[:] = [names.get(tensor, tensor) for tensor in node.input]
    weights = {}
    for old, new in names.items():
        weights[new] = np.array(draft.value(old), np.float32)
        del draft.constants[old]
        draft.constants[new] = absent = TensorProto(name=new, data_type=TensorProto.FLOAT, dims=weights[new].shape)
        absent.data_location = TensorProto.EXTERNAL
        absent.external_data.add(key="location", value=_BESIDE)
    return draft.written(), weights


def with_weights(structure: onnx.ModelProto, weights: Mapping[str, NDArray[Any]]) -> onnx.ModelProto:
    """The whole graph again."""
    draft = Draft(structure)
    for name in weight_shapes(structure):
        draft.store(name, np.asarray(weights[name], np.float32))
    return draft.written()


def folded(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    """`model`, weights and all, its batch norms folded into the layers before them; how many."""
    draft = Draft(model)
    count = len(fold_batch_norms(draft))
    return draft.finish(), count


def weight_shapes(structure: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every weight, in the graph's order."""
    return {
        tensor.name: tuple(tensor.dims)
        for tensor in structure.graph.initializer
        if tensor.data_location == TensorProto.EXTERNAL
    }


def packed(structure: onnx.ModelProto) -> str:
    """The graph as text."""
    return base64.b64encode(zlib.compress(structure.SerializeToString(deterministic=True), 9)).decode()


@lru_cache(maxsize=8)
def unpacked(text: str) -> onnx.ModelProto:
    """The graph again (do not change it); raises InputError if `text` is none."""
    try:
        engine = zlib.decompressobj()
        data = engine.decompress(base64.b64decode(text, validate=True), _MOST_BYTES)
        if engine.unconsumed_tail or not engine.eof:
            what = f"larger than {_MOST_BYTES >> 20} MiB" if engine.unconsumed_tail else "damaged: it is cut off"
            raise InputError(f"the structure in the file is {what}")
        model = onnx.load_model_from_string(data)
        _check_sound(model.graph)
        return model
    except InputError:
        raise
    except Exception as err:  # base64, zlib and protobuf each raise their own
        raise InputError(f"the structure in the file is damaged: {err}") from err


def _check_sound(graph: onnx.GraphProto) -> None:
    """Raises InputError for a graph that no export writes: unsorted, or with numbers that lie in some file."""
    beside = [tensor for tensor in tensors_in(graph) if tensor.data_location == TensorProto.EXTERNAL]
    places = {tensor.name: [one.value for one in tensor.external_data if one.key == "location"] for tensor in beside}
    ours = {tensor.name for tensor in graph.initializer if places.get(tensor.name) == [_BESIDE]}
    known = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer} | {""}
    for node in graph.node:
        if not known.issuperset(node.input) or not known.isdisjoint({*node.output} - {""}):
            raise InputError(f"the structure in the file is damaged: node {node.name!r} reads what is made after it")
        known.update(node.output)
    if any(tensor.name not in ours for tensor in beside) or not known.issuperset(one.name for one in graph.output):
        raise InputError("the structure in the file is damaged: it names what it does not hold")


def without(structure: onnx.ModelProto, skips: Mapping[str, str]) -> onnx.ModelProto:
    """The graph in which readers of an addition's output read its skip instead: `skips` is output -> skip.

    Nodes and weights that nothing reads any more are gone, and a ReLU of what a ReLU made.
    """
    draft, renamed = Draft(structure), dict[str, str]()
    for output, skip in skips.items():
        while skip in skips:  # a module behind another that goes, with nothing between the two
            skip = skips[skip]
        skip = renamed.get(skip, skip)
        draft.remove([draft.producers[output]])
        renamed[skip] = draft.replace_tensor(output, skip)
    producers = draft.producers
    for node in [node for node in draft.nodes if node.op_type == "Relu"]:
        before = producers.get(node.input[0])
        if before is not None and before.op_type == "Relu":
            draft.remove([node])
            draft.replace_tensor(node.output[0], node.input[0])
    return draft.finish()


def _names(view: GraphView, taken: Collection[str]) -> dict[str, str]:
    """Weight -> the name it gets, each once."""
    names: dict[str, str] = {}
    for node in view.nodes:
        own, roles = [tensor for tensor in node.input[1:] if tensor], PARAMETERS.get(node.op_type, ())
        if roles and all(_is_weight(view, tensor, 1) for tensor in own) and names.keys().isdisjoint(own):
            path = _plain(_layer_name(own, roles) or node.name, taken)
            given = {name.rpartition(".")[0] for name in names.values()}
            names |= zip(own, (f"{free_of(given, path, '_')}.{role}" for role in roles), strict=False)
            continue
        for tensor in node.input:
            if tensor not in names and node.op_type not in _SWITCH and _is_weight(view, tensor, 2):
                names[tensor] = free_of({*names.values()}, _plain(tensor, taken), "_")
    return names


def _is_weight(view: GraphView, tensor: str, fewest: int) -> bool:
    """Whether it is a stored float tensor of at least so many numbers."""
    stored = view.constants.get(tensor)
    return stored is not None and stored.data_type == TensorProto.FLOAT and int(np.prod(stored.dims)) >= fewest


def _layer_name(tensors: list[str], roles: tuple[str, ...]) -> str | None:
    """`layer1.0.conv1` where its weights are called so already."""
    path = tensors[0].removesuffix(f".{roles[0]}")
    wanted = [f"{path}.{role}" for role in roles[: len(tensors)]]
    return path if path and wanted == tensors else None


def _plain(path: str, taken: Collection[str]) -> str:
    """`path` as torch can have it: letters, digits and underscores between its dots."""
    parts = [_PART.sub("_", part) or "_" for part in path.strip("/").replace("/", ".").split(".")]
    return ".".join(f"{part}_" if part in taken else part for part in parts)
