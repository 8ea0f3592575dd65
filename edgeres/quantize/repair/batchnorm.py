"""Folds batch norm into the convolution before it: w' = w g / sqrt(v + eps), b' = (b - m) g / sqrt(v + eps) + beta."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeres.quantize.decision import IntegerWeight
from edgeres.quantize.repair.draft import Draft
from edgeres.quantize.repair.stripping import Taken

_EPSILON = 1e-5  # ONNX's default


def fold_batch_norms(draft: Draft, taken: Taken) -> None:
    """Folds every batch norm that alone reads a convolution that was quantized.

    Integers stay what they are: a row's factor goes into its scale.
    """
    for node in list(draft.nodes):
        layer = draft.producers.get(node.input[0]) if node.op_type == "BatchNormalization" else None
        if layer is None or layer.op_type != "Conv" or not taken.has(layer):
            continue
        statistics = [draft.value(name) for name in node.input[1:5]]
        alone = len(draft.readers[layer.output[0]]) == 1 and layer.output[0] not in draft.outputs
        if alone and layer.input[1] in draft.constants and all(value is not None for value in statistics):
            _fold(draft, layer, node, taken)


def _fold(draft: Draft, layer: onnx.NodeProto, node: onnx.NodeProto, taken: Taken) -> None:
    gain, beta, mean, variance = (np.asarray(draft.value(name), np.float64) for name in node.input[1:5])
    epsilon = next((entry.f for entry in node.attribute if entry.name == "epsilon"), _EPSILON)
    factor = gain / np.sqrt(variance + epsilon)
    weight, old = draft.value(layer.input[1]), layer.input[1]
    assert weight is not None
    bias = draft.value(layer.input[2]) if len(layer.input) > 2 and layer.input[2] else np.zeros(len(mean))
    if bias is None:
        return
    name = draft.free(f"{old}.folded")
    scaled = weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
    inputs = [layer.input[0], draft.store(name, scaled.astype(weight.dtype))]
    shifted = (bias - mean) * factor + beta
    inputs.append(draft.store(draft.free(f"{layer.name}.bias.folded"), shifted.astype(weight.dtype)))
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
