"""Which channels of a graph must be scaled alike so that it computes the same: classes over all its tensors.

    relu(s x) = s relu(x), s > 0: a factor passes ReLU, pooling, slices and zero padding unchanged
    conv, gemm      take any factor of an input channel into their columns, and make a new class of each output
    add             both inputs' channels have one factor
    anything else   factor 1, as the graph's input and output

`scaling` chooses the factors, `outliers` where it begins; both write them with `scaled`.

Class 0 is factor 1. Channels of padded zeros have no class of their own: they take the other summand's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from edgeres.graph.operators import OPERATORS
from edgeres.graph.view import LAYERS, GraphView, attribute

FIXED = 0
_ZEROS = -1
_PASS = frozenset(
    {"Relu", "MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean", "Flatten", "Identity", "Dropout"}
)
_MOVE = frozenset({"Slice", "Pad"})
_SIDE = 8  # of the little map that tells where a slice or a padding puts the channels
Classes = NDArray[np.int64]


def channel_classes(model: onnx.ModelProto) -> dict[str, Classes]:
    """Tensor -> class of each of its channels (C,), for every tensor whose channels are known."""
    view = GraphView(model)
    union = _Union()
    found: dict[str, Classes] = {}
    for node in view.nodes:
        classes = _of_node(view, node, found, union)
        if classes is None:
            union.fix(label for name in node.input if name in found for label in found[name])
        else:
            found[str(node.output[0])] = classes
    union.fix(label for name in view.outputs if name in found for label in found[name])
    return {name: np.array([union.root(label) for label in classes]) for name, classes in found.items()}


def scaled(
    model: onnx.ModelProto,
    classes: Mapping[str, Classes],
    factors: NDArray[np.float32],
    *,
    given: Mapping[str, NDArray[np.float32]] | None = None,
) -> dict[str, NDArray[np.float32]]:
    """Weights and biases of every layer with channels of class k divided by factors[k]: the float logits stay the same.

    Rows are divided by the factors of the output's channels, columns multiplied by those of the input's. `given`:
    float tensors that stand in the place of the model's own.
    """
    view, given = GraphView(model), given or {}
    changed: dict[str, NDArray[np.float32]] = {}
    for layer in (layer for layer in view.layers if layer.output[0] in classes):
        names = [str(name) for name in layer.input[1:] if name]
        weight, *bias = [stored(view, given, name) for name in names]
        rows, columns = factors[classes[str(layer.output[0])]], factors[read_by(layer, classes, weight.shape[1])]
        tail = [1] * (weight.ndim - 2)
        changed[names[0]] = weight * columns.reshape(1, -1, *tail) / rows.reshape(-1, 1, *tail)
        changed |= {name: array / rows for name, array in zip(names[1:], bias, strict=True)}
    return changed


def read_by(layer: onnx.NodeProto, classes: Mapping[str, Classes], n: int) -> Classes:
    """Class of the channel that each of the `n` columns of a layer's weights reads; FIXED where that is not known."""
    labels = classes.get(str(layer.input[0]))
    if labels is None or n % len(labels):
        return np.full(n, FIXED)
    return np.repeat(labels, n // len(labels))


def stored(view: GraphView, given: Mapping[str, NDArray[np.float32]], name: str) -> NDArray[np.float32]:
    """The constant `name`, or what is `given` in its place."""
    return given[name] if name in given else np.asarray(view.value(name))


class _Union:
    """Disjoint sets of labels; whoever is joined with FIXED is fixed."""

    def __init__(self) -> None:
        self._parent = [FIXED]

    def new(self, n: int) -> Classes:
        """`n` labels, each alone."""
        first = len(self._parent)
        self._parent += range(first, first + n)
        return np.arange(first, first + n)

    def root(self, label: int) -> int:
        """The smallest label of its set; padded zeros count as fixed."""
        if label == _ZEROS:
            return FIXED
        while self._parent[label] != label:
            label = self._parent[label]
        return label

    def join(self, a: int, b: int) -> None:
        """Makes one set of two."""
        low, high = sorted((self.root(a), self.root(b)))
        self._parent[high] = low

    def fix(self, labels: Iterable[int]) -> None:
        """Gives `labels` the factor 1."""
        for label in labels:
            if label != _ZEROS:
                self.join(FIXED, int(label))


def _of_node(view: GraphView, node: onnx.NodeProto, found: dict[str, Classes], union: _Union) -> Classes | None:
    """Classes of the node's output; None if nothing is known, and its inputs must stay as they are."""
    if node.op_type in LAYERS:
        return _of_layer(view, node, found, union)
    known = [found[name] for name in node.input if name in found]
    if node.op_type in _PASS:
        return known[0] if known else None
    if node.op_type in _MOVE:
        return _moved(view, node, known[0]) if known else None
    if node.op_type == "Add" and len(known) == len(node.input) and len({len(one) for one in known}) == 1:
        return np.array([_summed(int(a), int(b), union) for a, b in zip(*known, strict=True)])
    return None


def _of_layer(view: GraphView, node: onnx.NodeProto, found: dict[str, Classes], union: _Union) -> Classes | None:
    names = [name for name in node.input[1:] if name]
    plain = all(name in view.constants and len(view.readers[name]) == 1 for name in names)
    plain = plain and (node.op_type == "Conv" or bool(attribute(node, "transB", 0)))
    if not plain:
        return None
    if attribute(node, "group", 1) != 1:
        union.fix(found.get(str(node.input[0]), ()))
    return union.new(view.constants[node.input[1]].dims[0])


def _summed(a: int, b: int, union: _Union) -> int:
    if _ZEROS in (a, b):
        return max(a, b)
    union.join(a, b)
    return a


def _moved(view: GraphView, node: onnx.NodeProto, classes: Classes) -> Classes | None:
    """Runs the node on a map that holds the labels; padding leaves zeros."""
    if any(name and name not in view.constants for name in node.input[1:]):
        return None
    parameters = [torch.from_numpy(np.array(view.value(name))) if name else None for name in node.input[1:]]
    shifted = torch.from_numpy(classes + 1).double().reshape(1, -1, 1, 1).expand(1, -1, _SIDE, _SIDE)
    attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
    labels: Classes = OPERATORS[node.op_type](attributes)(shifted, *parameters)[0].flatten(1).amax(1).long().numpy() - 1
    return labels
