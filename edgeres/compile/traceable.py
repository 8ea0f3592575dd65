"""An ONNX graph as a torch module that torch.export can follow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
from torch import Tensor

from edgeres.graph.execute import GraphNetwork


class Numbers(list[int]):
    """Starts, ends, paddings: constants of the graph, which as tensors would look like data to torch.export."""

    def tolist(self) -> list[int]:
        """The numbers."""
        return list(self)


class TraceableNetwork(GraphNetwork):
    """A GraphNetwork whose integer constants are Python numbers."""

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__(model)
        kinds = {onnx.TensorProto.INT64, onnx.TensorProto.INT32}
        stored = [one for one in model.graph.initializer if one.data_type in kinds and len(one.dims) == 1]
        self._numbers = {one.name: Numbers(onnx.numpy_helper.to_array(one).tolist()) for one in stored}

    def _read(self, node: onnx.NodeProto, index: int, values: Mapping[str, Tensor], seen: dict[str, Tensor]) -> Any:
        name = node.input[index]
        return self._numbers[name] if name in self._numbers else super()._read(node, index, values, seen)
