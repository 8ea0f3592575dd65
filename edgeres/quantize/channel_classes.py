"""Which channels of a graph must be scaled alike so that it computes the same: classes over all its tensors.

    relu(s x) = s relu(x), s > 0: a factor passes ReLU, pooling, slices and zero padding unchanged
    conv, gemm      take any factor of an input channel into their columns, and make a new class of each output
    add             both inputs' channels have one factor
    anything else   factor 1, as the graph's input and output

`scaling` chooses the factors and writes them with `scaled`. Class 0 is factor 1. Channels of padded zeros have no class
of their own: they take the other summand's.

It begins with the channels out of all proportion to the others of their tensor, found in the weights alone:

    row_k   size of the weights and bias that make channel k,   col_k   of the weights that read it
            (both over the median of their layer; of a class of channels the geometric mean over its layers)
    r_k     = sqrt(row_k / col_k)

A channel scaled by f, which is exact in float, has f row_k and col_k / f, so that r_k tells f but for its own natural
share. A large f leaves every other channel of the tensor a step that is too coarse; a small one does so to the weights
of every row that reads the channel. The factor that takes it back is no larger than the harm:

    min(row_k, r_k)   where that is above `FAR`,      1 / min(col_k, 1 / r_k)   where that divisor is,      else 1

Source: Nagel et al. 2019, arXiv 1906.04721, equation 11 (r_k, there for all channels).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

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
FAR = 4.0  # in the trained ResNets of the README r lies below 2.8; learning alone covers about e
_SEEN = 16.0  # four of the seven bits of every other channel
Floats = NDArray[np.float64]
Sizes = tuple[Classes, Floats]


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
    changed: dict[str, NDArray[np.float32]] = {}
    for names, (weight, *bias), labels, read in _layers(model, classes, given or {}):
        rows, columns, tail = factors[labels], factors[read], [1] * (weight.ndim - 2)
        changed[names[0]] = weight * columns.reshape(1, -1, *tail) / rows.reshape(-1, 1, *tail)
        changed |= {name: array / rows for name, array in zip(names[1:], bias, strict=True)}
    return changed


def _layers(
    model: onnx.ModelProto, classes: Mapping[str, Classes], given: Mapping[str, NDArray[np.float32]]
) -> Iterator[tuple[list[str], list[NDArray[np.float32]], Classes, Classes]]:
    """(names of weight and bias, themselves or what is given in their place, class of each row, class of each column).

    A column is of the class of the channel it reads, FIXED where that is not known.
    """
    view = GraphView(model)
    for layer in (layer for layer in view.layers if layer.output[0] in classes):
        names = [str(name) for name in layer.input[1:] if name]
        arrays = [given[name] if name in given else np.asarray(view.value(name)) for name in names]
        labels, n = classes.get(str(layer.input[0])), arrays[0].shape[1]
        is_known = labels is not None and n % len(labels) == 0
        read = np.repeat(labels, n // len(labels)) if labels is not None and is_known else np.full(n, FIXED)
        yield names, arrays, classes[str(layer.output[0])], read


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
        pairs = [(int(a), int(b)) for a, b in zip(*known, strict=True)]
        for a, b in (pair for pair in pairs if _ZEROS not in pair):
            union.join(a, b)
        return np.array([max(pair) if _ZEROS in pair else pair[0] for pair in pairs])
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


def _moved(view: GraphView, node: onnx.NodeProto, classes: Classes) -> Classes | None:
    """Runs the node on a map that holds the labels; padding leaves zeros."""
    if any(name and name not in view.constants for name in node.input[1:]):
        return None
    parameters = [torch.from_numpy(np.array(view.value(name))) if name else None for name in node.input[1:]]
    shifted = torch.from_numpy(classes + 1).double().reshape(1, -1, 1, 1).expand(1, -1, _SIDE, _SIDE)
    attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
    labels: Classes = OPERATORS[node.op_type](attributes)(shifted, *parameters)[0].flatten(1).amax(1).long().numpy() - 1
    return labels


def outlier_factors(
    model: onnx.ModelProto, classes: Mapping[str, Classes], *, given: Mapping[str, NDArray[np.float32]] | None = None
) -> NDArray[np.float32]:
    """Factor of every class for `scaled`: 1 but for outliers. `given`: as there."""
    n = 1 + max((int(one.max()) for one in classes.values()), default=FIXED)
    made, read = _sizes(model, classes, given or {})
    rows, columns = _proportions(made, n), _proportions(read, n)
    r = np.sqrt(rows / columns)
    large, small = np.minimum(rows, r), np.minimum(columns, 1 / r)
    factors = np.where(large > FAR, large, np.where(small > FAR, 1 / small, 1.0))
    return factors.astype(np.float32)


def far_out(model: onnx.ModelProto, tensors: Iterable[str]) -> list[tuple[str, int, float]]:
    """(tensor, channel, factor above 1) of what among `tensors` will be seen in the outputs, the worst first."""
    classes = channel_classes(model)
    factors = outlier_factors(model, classes)
    found: dict[int, tuple[str, int, float]] = {}
    for tensor in (tensor for tensor in tensors if tensor in classes):
        for channel, label in enumerate(classes[tensor]):
            factor = float(max(factors[label], 1 / factors[label]))
            if factor >= _SEEN:
                found.setdefault(int(label), (tensor, channel, factor))
    return sorted(found.values(), key=lambda one: -one[2])


def _sizes(
    model: onnx.ModelProto, classes: Mapping[str, Classes], given: Mapping[str, NDArray[np.float32]]
) -> tuple[list[Sizes], list[Sizes]]:
    """(class, size) of each channel: of the rows that make it, and of the columns that read it, layer by layer."""
    made, read = [], []
    for _, arrays, labels, read_labels in _layers(model, classes, given):
        weight, *bias = [array.astype(np.float64) for array in arrays]
        rows = np.column_stack([weight.reshape(len(weight), -1), *bias])
        made.append((labels, np.linalg.norm(rows, axis=1)))
        read.append((read_labels, np.abs(weight).reshape(*weight.shape[:2], -1).max((0, 2))))
    return made, read


def _proportions(layers: Iterable[Sizes], n: int) -> Floats:
    """Class -> geometric mean of its sizes over their layers' medians; 1 for FIXED and where nothing is known."""
    total, seen = np.zeros(n), np.zeros(n)
    for labels, sizes in layers:
        free = (labels != FIXED) & (sizes > 0)
        if free.any():
            logarithms = np.log(sizes[free])
            np.add.at(total, labels[free], logarithms - np.median(logarithms))
            np.add.at(seen, labels[free], 1)
    proportions: Floats = np.exp(total / np.maximum(seen, 1))
    return proportions
