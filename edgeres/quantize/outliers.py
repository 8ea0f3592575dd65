"""Channels out of all proportion to the others of their tensor, found in the weights alone.

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

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeres.graph.view import GraphView
from edgeres.quantize.channel_classes import FIXED, Classes, channel_classes, read_by, stored

FAR = 4.0  # in the trained ResNets of the README r lies below 2.8; learning alone covers about e
_SEEN = 16.0  # four of the seven bits of every other channel
Floats = NDArray[np.float64]
Sizes = tuple[Classes, Floats]


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
    view = GraphView(model)
    made, read = [], []
    for layer in (layer for layer in view.layers if layer.output[0] in classes):
        weight, *bias = [stored(view, given, str(name)).astype(np.float64) for name in layer.input[1:] if name]
        rows = np.column_stack([weight.reshape(len(weight), -1), *bias])
        made.append((classes[str(layer.output[0])], np.linalg.norm(rows, axis=1)))
        columns = np.abs(weight).reshape(*weight.shape[:2], -1).max((0, 2))
        read.append((read_by(layer, classes, weight.shape[1]), columns))
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
