"""A float graph run over images while its tensors are watched; what is kept does not grow with the images.

The images of a run are so many that the watched tensors stay below a limit, each tensor is counted and given back
before the next, and weights go from the model to ONNX Runtime through a temporary file, so that they are not held
three times.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeres.core.errors import require
from edgeres.core.onnx_file import inferred_values
from edgeres.graph.session import answering, session_from, with_outputs
from edgeres.graph.view import LAYERS, GraphView
from edgeres.quantize.calibrators import Histogram

Images = NDArray[np.float32]
MEMORY_LIMIT_BYTES = 16 << 20  # of watched tensors at a time: 5 images of ResNet-56, 1 of ResNet-50; more is no faster
_MOST_AT_A_TIME = 32
_FLOAT_BYTES = 4
_NONZERO_CHANNELS_EXPECTED = LAYERS | {"Relu", "Clip"}  # not a padded shortcut, whose zeros are meant


@dataclass
class Statistics:
    """One tensor: its values, and which channels (axis 1) were ever other than zero; None where that means nothing."""

    histogram: Histogram
    alive: NDArray[np.bool_] | None = None

    @property
    def dead(self) -> int:
        """Channels that were zero on every image."""
        return 0 if self.alive is None else int((~self.alive).sum())

    def add(self, values: NDArray[Any], *, watch_channels: bool = False) -> None:
        """Counts `values` (N, C, ...); raises InputError if one is NaN or infinite."""
        self.histogram.add(values)
        if not watch_channels or values.ndim < 2:
            return
        if self.alive is None:
            self.alive = np.zeros(values.shape[1], np.bool_)
        if not self.alive.all():
            rest = tuple(axis for axis in range(values.ndim) if axis != 1)
            self.alive = self.alive | (values != 0).any(axis=rest)


def statistics_of(model: onnx.ModelProto, tensors: Iterable[str], batches: Iterable[Images]) -> dict[str, Statistics]:
    """Statistics of `tensors` while `model` runs over `batches`, float32 (N, C, H, W).

    Raises InputError if a tensor holds NaN or infinite values.
    """
    found = {name: Statistics(Histogram(name)) for name in tensors}
    view = GraphView(model)
    watched = {name for name in found if view.op_of(name) in _NONZERO_CHANNELS_EXPECTED}
    for name, values in _observations(model, list(found), batches):
        found[name].add(values, watch_channels=name in watched)
    return found


def images_at_a_time(model: onnx.ModelProto, tensors: Iterable[str], *, limit: int = MEMORY_LIMIT_BYTES) -> int:
    """How many images keep `tensors` together below `limit` bytes, 1 to 32."""
    shapes = shapes_of(model)
    size = sum(math.prod(shapes[name][1:]) * _FLOAT_BYTES for name in tensors if name in shapes)
    return max(1, min(_MOST_AT_A_TIME, limit // max(size, 1)))


def shapes_of(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shape of every float tensor that the graph reads or computes; a dimension that is not known counts as 1."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return {
        value.name: tuple(dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim)
        for value in inferred_values(model, "the model")
        if value.name not in weights and value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }


def _observations(
    model: onnx.ModelProto, tensors: list[str], batches: Iterable[Images]
) -> Iterator[tuple[str, NDArray[Any]]]:
    """(tensor, values), tensor by tensor and run by run."""
    ort = require("onnxruntime", "onnx")
    source = model.graph.input[0].name
    computed = [name for name in tensors if name != source]
    session = _session(model, computed or [model.graph.output[0].name])
    size = images_at_a_time(model, tensors)
    for batch, start in ((one, start) for one in batches for start in range(0, len(one), size)):
        images = np.ascontiguousarray(batch[start : start + size])
        if source in tensors:
            yield source, images
        if not computed:
            continue
        with answering("the model"):
            values = session.run_with_ort_values(computed, {source: ort.OrtValue.ortvalue_from_numpy(images)})
        for name in computed:
            yield name, values.pop(0).numpy()


def _session(model: onnx.ModelProto, outputs: list[str]) -> Any:
    """A session on a copy with any batch size and `outputs`, which never stands in memory as a whole.

    It is written in pieces: messages of protocol buffers merge when their bytes are joined.
    """
    old = model.graph  # its inferred shapes, which are of one batch size, stay behind
    graph = onnx.GraphProto(name=old.name, node=old.node, input=old.input, output=old.output)
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    bare = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, graph=graph)
    with tempfile.TemporaryDirectory(prefix="edgeres-") as folder:
        path = Path(folder, "observed.onnx")
        with path.open("wb") as file:
            file.write(with_outputs(bare, outputs).SerializeToString())
            for tensor in old.initializer:
                file.write(onnx.ModelProto(graph=onnx.GraphProto(initializer=[tensor])).SerializeToString())
        return session_from(path, "the model to be observed", arena=False)
