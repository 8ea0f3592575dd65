"""Folds batch norm into the quantized convolution before it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeres.graph.draft import Draft
from edgeres.graph.normal import folded_batch_norm
from edgeres.quantize.decision import IntegerWeight
from edgeres.quantize.repair.stripping import Taken


def fold_batch_norms(draft: Draft, taken: Taken) -> None:
    """Folds every batch norm that alone reads a convolution that was quantized.

    Integers stay what they are: a row's factor goes into its scale.
    """
    for node in list(draft.nodes):
        layer = draft.producers.get(node.input[0]) if node.op_type == "BatchNormalization" else None
        if layer is None or layer.op_type != "Conv" or not taken.has(layer):
            continue
        names = (*filter(None, layer.input[1:3]), *node.input[1:5])
        arrays = [array for name in names if (array := draft.value(name)) is not None]
        alone = len(draft.readers[layer.output[0]]) == 1 and layer.output[0] not in draft.outputs
        if alone and len(arrays) == len(names):
            _fold(draft, layer, node, arrays, taken)


def _fold(draft: Draft, layer: onnx.NodeProto, node: onnx.NodeProto, arrays: list[NDArray[Any]], taken: Taken) -> None:
    """`arrays`: weight, bias if there is one, and the batch norm's parameters."""
    old, kind = layer.input[1], arrays[0].dtype
    scaled, shifted, factor = folded_batch_norm(node, arrays[-4:], *arrays[:-4])
    name = draft.free(f"{old}.folded")
    inputs = [layer.input[0], draft.store(name, scaled.astype(kind))]
    inputs.append(draft.store(draft.free(f"{layer.name}.bias.folded"), shifted.astype(kind)))
    taken.weights[name] = _scaled(taken.weights.get(old), factor)
    del layer.input[:]
    layer.input.extend(inputs)
    taken.bounds.pop(layer.output[0], None)
    layer.output[0] = node.output[0]
    draft.remove([node])


def _scaled(weight: IntegerWeight | None, factor: NDArray[Any]) -> IntegerWeight | None:
    """The integers of rows times `factor`; None where a row's factor is zero or -128 would change its sign."""
    if weight is None or not factor.all() or (weight.values == np.iinfo(np.int8).min).any():
        return None
    signs = np.sign(factor).astype(np.int8).reshape(-1, *[1] * (weight.values.ndim - 1))
    return IntegerWeight(weight.values * signs, (weight.scale * np.abs(factor)).astype(np.float32))
