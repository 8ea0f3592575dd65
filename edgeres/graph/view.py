"""A read-only view of an ONNX graph: who makes and who reads a tensor, and what is constant wherever it is kept.

Any graph is understood: constants in nodes or in initializers, nodes without inputs, without a name, with pairs or
without. Importing it needs no onnx.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from edgeres.core.artifacts import CARD_KEY, properties_of

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

Q, DQ = "QuantizeLinear", "DequantizeLinear"
QDQ = frozenset({Q, DQ})
LAYERS = frozenset({"Conv", "Gemm"})  # what edgeres quantizes
WEIGHTED = LAYERS | {"ConvTranspose", "MatMul"}  # every operator that multiplies by a weight
_FINITE = WEIGHTED | QDQ | {"BatchNormalization"}
_ONNX = ("", "ai.onnx")
T = TypeVar("T")
_ALIASES = frozenset({"Identity", "Dropout"})
_WEIGHT_MOVERS = frozenset({"Transpose", "Reshape", "Identity", "Squeeze", "Unsqueeze", "Cast"})


class GraphView:
    """Indices over `model.graph`, which must not change while the view is used.

    `body`: a graph inside of it, an If's or a Loop's, which sees the constants of the view `outer` around it.
    `inputs` are those that must be fed; `constants`: tensor -> its value, of an initializer or of a Constant node;
    `card`: what edgeres wrote into the file about the network, None in files of others.
    """

    def __init__(
        self, model: onnx.ModelProto, body: onnx.GraphProto | None = None, outer: GraphView | None = None
    ) -> None:
        graph = model.graph if body is None else body
        self.nodes: list[onnx.NodeProto] = list(graph.node)
        self.opset = opset_of(model)
        self.card = properties_of(model).get(CARD_KEY)
        self.constants: dict[str, onnx.TensorProto] = dict(outer.constants) if outer else {}
        self.constants |= {tensor.name: tensor for tensor in graph.initializer}
        self.inputs = [value.name for value in graph.input if value.name not in self.constants]
        self.outputs = [value.name for value in graph.output]
        for node in self.nodes:
            if (tensor := _constant_of(node, self.constants)) is not None:
                self.constants[node.output[0]] = tensor

    @cached_property
    def producers(self) -> dict[str, onnx.NodeProto]:
        """Tensor -> the node that makes it; graph inputs and initializers have none."""
        return producers_of(self.nodes)

    @cached_property
    def readers(self) -> dict[str, list[tuple[onnx.NodeProto, int]]]:
        """Tensor -> (node, input index) of everything that reads it."""
        return readers_of(self.nodes)

    @property
    def layers(self) -> list[onnx.NodeProto]:
        """Convolutions and fully connected layers in order of execution."""
        return [node for node in self.nodes if node.op_type in LAYERS]

    @property
    def additions(self) -> list[onnx.NodeProto]:
        """Additions of two computed tensors."""
        return [
            node
            for node in self.nodes
            if node.op_type == "Add"
            and len(node.input) == 2
            and node.output
            and self.constants.keys().isdisjoint(node.input)
        ]

    def value(self, tensor: str) -> NDArray[Any] | None:
        """A constant's values, None if `tensor` is computed."""
        from onnx import numpy_helper

        return numpy_helper.to_array(self.constants[tensor]) if tensor in self.constants else None

    @property
    def broken(self) -> dict[str, onnx.NodeProto]:
        """Stored floats with NaN, or of a layer with infinity, which a clip or mask may have -> who reads them."""
        found = dict[str, Any]()
        for node in self.nodes:
            for tensor in node.input:
                values = self.value(tensor) if tensor in self.constants and tensor not in found else None
                if values is None or values.dtype.kind != "f":
                    continue
                if np.isnan(values).any() or (node.op_type in _FINITE and np.isinf(values).any()):
                    found[tensor] = node
        return found

    def op_of(self, tensor: str) -> str:
        """The operator that makes `tensor`, empty for graph inputs and initializers."""
        return self.producers[tensor].op_type if tensor in self.producers else ""

    def maker_of(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        """The node that makes the first input of `node`; None at the graph's inputs and at nodes without inputs."""
        return self.producers.get(node.input[0]) if node.input else None

    def passed_on(self, node: onnx.NodeProto) -> str:
        """The first input of `node` that is computed; its first where none is."""
        return str(next((name for name in node.input if name and name not in self.constants), node.input[0]))

    def made_from(
        self, tensors: Iterable[str], instead: Mapping[str, str] | None = None, *, until: Collection[str] = ()
    ) -> set[str]:
        """`tensors`, what they are computed from, back to `until` without it, and what is made along with that.

        Where a key of `instead` is read its value is what counts.
        """
        found, open_, other = {"", *until}, list(tensors), instead or {}
        while open_:
            name = other.get(one := open_.pop(), one)
            if name not in found:
                node = self.producers.get(name)
                found.update([name] if node is None else node.output)
                open_ += [] if node is None else node.input
        return found.difference(until, ("",))

    def source_of(self, pair_end: onnx.NodeProto) -> str | None:
        """The float tensor behind a DequantizeLinear; None if its integers are not made by a QuantizeLinear."""
        maker = self.maker_of(pair_end)
        return maker.input[0] if maker is not None and maker.op_type == Q else None

    def is_weight(self, node: onnx.NodeProto) -> bool:
        """Whether a Q or DQ node works on a constant."""
        data = node.input[0]
        if node.op_type == DQ and data not in self.constants:
            data = self.source_of(node) or data
        return data in self.constants

    def weight_pair(self, layer: onnx.NodeProto) -> onnx.NodeProto | None:
        """The DequantizeLinear behind a layer's weight, seen through transpositions and the like."""
        node = self.producers.get(layer.input[1]) if len(layer.input) > 1 else None
        while node is not None and node.op_type in _WEIGHT_MOVERS:
            node = self.maker_of(node)
        return node if node is not None and node.op_type == DQ else None

    def layer_before(self, tensor: str) -> onnx.NodeProto | None:
        """The nearest layer on the way back from `tensor`, unless an addition comes first."""
        node = self.producers.get(tensor)
        while node is not None and node.op_type not in WEIGHTED | {"Add"}:
            node = self.maker_of(node)
        return node if node is not None and node.op_type in WEIGHTED else None


def opset_of(model: onnx.ModelProto) -> int:
    """Version of the ONNX operator set the model asks for."""
    return next((int(entry.version) for entry in model.opset_import if entry.domain in _ONNX), 0)


def name_of(node: onnx.NodeProto) -> str:
    """The node's name, or its operator and output if it has none."""
    return node.name or f"{node.op_type} -> {node.output[0] if node.output else '?'}"


def called(node: onnx.NodeProto) -> str:
    """The node's name, or its first output if it has none."""
    return str(node.name or next(iter(node.output), ""))


def scope_of(name: str) -> str:
    """The module that a node's name tells: `layer2.0` of /layer2/layer2.0/Add and of layer2.0.add; "" if none."""
    if "/" not in name:
        return name.rpartition(".")[0]
    parts: list[str] = []
    for part in name.strip("/").split("/")[:-1]:
        if parts and part.startswith(parts[-1] + "."):
            parts.pop()
        parts.append(part)
    return ".".join(parts)


def attribute(node: onnx.NodeProto, name: str, default: T) -> T:
    """An attribute of `node`, of the default's type; lists are lists, texts bytes."""
    from onnx.helper import get_attribute_value

    found = [get_attribute_value(entry) for entry in node.attribute if entry.name == name]
    return cast("T", found[0]) if found else default


def weight_axis(layer: onnx.NodeProto, ndim: int) -> int:
    """The axis of a layer's weight that counts its output channels."""
    if layer.op_type == "MatMul":
        return ndim - 1
    if layer.op_type == "Gemm":
        return 0 if attribute(layer, "transB", 0) else 1
    return 1 if layer.op_type == "ConvTranspose" else 0


def producers_of(nodes: Iterable[onnx.NodeProto]) -> dict[str, onnx.NodeProto]:
    """Tensor -> the node that makes it."""
    return {output: node for node in nodes for output in node.output if output}


def readers_of(nodes: Iterable[onnx.NodeProto]) -> dict[str, list[tuple[onnx.NodeProto, int]]]:
    """Tensor -> (node, input index) of everything that reads it."""
    readers = defaultdict(list)
    for node in nodes:
        for index, tensor in enumerate(node.input):
            readers[tensor].append((node, index))
    return readers


def _constant_of(node: onnx.NodeProto, known: dict[str, onnx.TensorProto]) -> onnx.TensorProto | None:
    """The tensor a Constant node, or an Identity of a constant, stands for."""
    from onnx import numpy_helper

    if node.op_type in _ALIASES and node.domain in _ONNX and node.input and node.output:
        return known.get(node.input[0])
    if node.op_type != "Constant" or node.domain not in _ONNX or not node.output:
        return None
    for entry in node.attribute:
        if entry.name == "value":
            tensor: onnx.TensorProto = entry.t
            return tensor
        if entry.name in ("value_float", "value_floats"):
            values = np.asarray(entry.f if entry.name == "value_float" else list(entry.floats), np.float32)
            return numpy_helper.from_array(values, node.output[0])
        if entry.name in ("value_int", "value_ints"):
            integers = np.asarray(entry.i if entry.name == "value_int" else list(entry.ints), np.int64)
            return numpy_helper.from_array(integers, node.output[0])
    return None
