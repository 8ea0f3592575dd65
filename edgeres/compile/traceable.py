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
        stored = {tensor.name: tensor for tensor in self._integers(model)}
        self._numbers = {name: Numbers(onnx.numpy_helper.to_array(tensor).tolist()) for name, tensor in stored.items()}

    @staticmethod
    def _integers(model: onnx.ModelProto) -> list[onnx.TensorProto]:
        kinds = {onnx.TensorProto.INT64, onnx.TensorProto.INT32}
        return [tensor for tensor in model.graph.initializer if tensor.data_type in kinds and len(tensor.dims) == 1]

    def _read(self, node: onnx.NodeProto, index: int, values: Mapping[str, Tensor], seen: dict[str, Tensor]) -> Any:
        name = node.input[index]
        return self._numbers[name] if name in self._numbers else super()._read(node, index, values, seen)
