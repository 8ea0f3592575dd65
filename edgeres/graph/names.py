"""A readable ONNX graph: nodes, tensors and constants named after the module they come from.

    /layer2.0/downsample/downsample.0/Conv  ->  layer2.0.downsample.0      module that is one operator
    /layer1.0/Add                           ->  layer1.0.add               operator inside a module
    onnx::Slice_123                         ->  layer2.0.downsample.slice.starts

A node's output bears the node's name; graph inputs, graph outputs and parameters keep theirs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

_MODULE_OPERATORS = frozenset({"Conv", "Gemm", "Relu", "MaxPool", "GlobalAveragePool", "BatchNormalization"})


def tidy(model: onnx.ModelProto) -> None:
    """Rewrites the exporter's graph in place: constants become initializers, names become stable."""
    graph = model.graph
    constants = _constants(graph)
    computing = [node for node in graph.node if node.output[0] not in constants]
    names = _node_names(computing)
    kept = {value.name for value in (*graph.input, *graph.output)}
    tensors = {tensor: tensor for tensor in kept}
    initializers: dict[str, np.ndarray[Any, Any]] = {}
    for node, name in zip(computing, names, strict=True):
        for index, tensor in enumerate(node.input):
            if tensor in constants:
                node.input[index] = _parameter_name(node, name, index, tensor)
                initializers[node.input[index]] = constants[tensor]
            elif tensor:
                node.input[index] = tensors[tensor]
        while not node.input[-1]:
            node.input.pop()
        tensors.setdefault(node.output[0], name)
        node.output[0] = tensors[node.output[0]]
        node.name, node.doc_string = name, ""
    _replace(graph.node, computing)
    _replace(graph.initializer, (numpy_helper.from_array(value, name) for name, value in initializers.items()))
    del graph.value_info[:]
    graph.name = "edgeres"


def _constants(graph: onnx.GraphProto) -> dict[str, np.ndarray[Any, Any]]:
    """Initializers and whatever is computed from them alone (the exporter computes paddings in the graph)."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        inputs: dict[str, Any] = {name: constants[name] for name in node.input if name in constants}
        if len(inputs) == len(set(filter(None, node.input))):
            results: list[Any] = list(ReferenceEvaluator(node).run(None, inputs))
            constants[node.output[0]] = results[0]
    return constants


def _node_names(nodes: list[onnx.NodeProto]) -> list[str]:
    names: dict[str, None] = {}
    for node in nodes:
        base = _module_path(node.name)
        if node.op_type not in _MODULE_OPERATORS or not base:
            base = ".".join(filter(None, (base, node.op_type.lower())))
        name, repeat = base, 0
        while name in names:
            repeat += 1
            name = f"{base}_{repeat}"
        names[name] = None
    return list(names)


def _module_path(scoped: str) -> str:
    """`layer2.0.downsample.0` from `/layer2.0/downsample/downsample.0/Conv`."""
    parts: list[str] = []
    for part in scoped.strip("/").split("/")[:-1]:
        if parts and part.startswith(parts[-1] + "."):
            parts.pop()
        parts.append(part)
    return ".".join(parts)


def _parameter_name(node: onnx.NodeProto, name: str, index: int, tensor: str) -> str:
    if not tensor.startswith(("onnx::", "/")):
        return tensor
    formal = onnx.defs.get_schema(node.op_type).inputs[index].name
    return f"{name}.{formal.lower()}"


def _replace(field: Any, items: Iterable[Any]) -> None:
    items = list(items)
    del field[:]
    field.extend(items)
