"""The graph that the layers of an engine tell of by themselves: their tensors lead from one to the next.

A layer is a chain of the nodes that its name holds, its weighted one first: "layer1.0.conv2.weight + Conv_34 + Add_42 +
Relu_43" that reads x and s is Relu(Add(Conv(x), s)). On that graph the one rule for residual modules holds as on any
other. A module is called as the weights beside its addition are (layer1.0), otherwise as its addition.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from edgeres.compile.layers import RANGE, WORD, Graph, Layer
from edgeres.core.errors import require
from edgeres.graph.blocks import module_of
from edgeres.graph.view import WEIGHTED

_SIZE = 1  # of every made-up weight: which way has fewer layers decides, and the order of the inputs
_OPERATORS = {
    name.lower(): name
    for name in (
        *("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Relu", "Clip", "LeakyRelu", "MaxPool", "AveragePool"),
        *("GlobalAveragePool", "Flatten", "QuantizeLinear", "DequantizeLinear"),
    )
} | {"conv2d": "Conv", "linear": "Gemm", "fc": "Gemm", "quantized": "QuantizeLinear", "dequantized": "DequantizeLinear"}
_LAST = re.compile(r"(?:.*[./])?(?:node_)?([A-Za-z0-9]+?)\d*(?:_\d+)?")
_WEIGHTED_KIND = re.compile(r"conv|gemm|matmul|matrixmultiply|fullyconnected", re.IGNORECASE)


def graph_told_by(layers: Sequence[Layer]) -> Graph:
    """The graph of `layers`; its nodes have the names that stand in theirs."""
    helper = require("onnx", "onnx").helper
    nodes, weights, names = [], set[str](), dict[str, str]()
    for index, layer in enumerate(layers):
        for node in _nodes(layer, index):
            nodes.append(helper.make_node(node[0], node[2], node[3], name=node[1]))
            weights.update(node[2][1:] if node[0] in WEIGHTED else ())
            told = {module for word in WORD.findall(layer.text) if (module := module_of(word))}
            if node[0] == "Add" and len(told) == 1:  # the words of the layer agree on it
                names[node[1]] = told.pop()
    stored = [helper.make_tensor(name, helper.TensorProto.FLOAT, [_SIZE], [0.0]) for name in sorted(weights)]
    return Graph(helper.make_model(helper.make_graph(nodes, "engine", [], [], stored)), names, told=True)


def _nodes(layer: Layer, index: int) -> Iterator[tuple[str, str, list[str], list[str]]]:
    """(operator, name, inputs, outputs) of the chain that `layer` is, and of what gives it further outputs."""
    inputs, outputs = ([port.name for port in ports] for ports in (layer.inputs, layer.outputs))
    if not outputs:
        return
    chain, tensor, skips = _chain(layer, index), inputs[0] if inputs else "", inputs[1:]
    for step, (operator, name) in enumerate(chain):
        read, made = [tensor], outputs[0] if step == len(chain) - 1 else f"{index}.{step}"
        if operator in WEIGHTED:
            read.append(f"{index}.weight")
        elif operator == "Add" and skips:
            read.append(skips.pop(0))
        yield operator, name, read, [made]
        tensor = made
    for more in outputs[1:]:
        yield "Identity", f"{index}.{more}", [outputs[0]], [more]


def _chain(layer: Layer, index: int) -> list[tuple[str, str]]:
    """(operator, name) of the nodes named in `layer`, the one with weights first; of one that names none, itself."""
    words = dict.fromkeys(WORD.findall(layer.text)) if not layer.is_reformat else {}
    found = [(operator, word) for word in words if (operator := _operator(word))]
    heavy = [pair for pair in found if pair[0] in WEIGHTED][:1]
    if not heavy and (layer.weights is not None or _WEIGHTED_KIND.search(layer.kind)) and layer.is_kernel:
        heavy = [("Conv", next((word for word in words if not _operator(word)), f"{index}.layer"))]
    rest = [pair for pair in found if pair[0] not in WEIGHTED]
    pairs = [] if heavy else [pair for pair in rest if pair[0].endswith("Linear")]
    return [*heavy, *pairs, *(pair for pair in rest if not pair[0].endswith("Linear"))] or [
        ("Identity", f"{index}.{layer.name}")
    ]


def _operator(word: str) -> str | None:
    """Conv of "Conv_34", "/layer1/layer1.0/conv1/Conv" and "layer1.0.conv1"; None of what names no one operator."""
    match = _LAST.fullmatch(word) if RANGE not in word else None
    return _OPERATORS.get(match[1].lower()) if match else None
