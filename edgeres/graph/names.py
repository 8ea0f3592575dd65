"""A readable ONNX graph: nodes, tensors and constants named after the module they come from.

    /layer2.0/downsample/downsample.0/Conv  ->  layer2.0.downsample.0      module that is one operator
    /layer1.0/Add                           ->  layer1.0.add               operator inside a module
    onnx::Slice_123                         ->  layer2.0.downsample.slice.starts
    Conv_34, layer1.0.add                   ->  as they are: they tell no scope, or are names of this kind

A node's output bears the node's name; graph inputs, graph outputs and parameters keep theirs.
"""

from __future__ import annotations

import onnx
from onnx import numpy_helper

from edgeres.core.onnx_file import INPUT_NAME, OUTPUT_NAME
from edgeres.graph.draft import Draft, free_of
from edgeres.graph.view import scope_of

_MODULE_OPERATORS = frozenset({"Conv", "Gemm", "Relu", "MaxPool", "GlobalAveragePool", "BatchNormalization"})


def tidy(model: onnx.ModelProto) -> onnx.ModelProto:
    """The exporter's graph with all that is constant computed (paddings, for one), under stable names."""
    draft = Draft(model)
    draft.fold_constants()
    constants, draft.constants = draft.constants, {}
    ends = {*(value.name for value in draft.inputs), *draft.outputs}
    tensors = {tensor: tensor for tensor in ends}
    for node, name in zip(draft.nodes, _node_names(draft.nodes), strict=True):
        for index, tensor in enumerate(node.input):
            if tensor in constants:
                wanted = _parameter_name(node, name, index, tensor)
                is_another = wanted != tensor and wanted in node.input[:index]  # of any number that bear one name
                node.input[index] = f"{wanted}_{index}" if is_another else wanted
                draft.store(node.input[index], numpy_helper.to_array(constants[tensor]))
            elif tensor:
                node.input[index] = tensors[tensor]
        while not node.input[-1]:
            node.input.pop()
        for index, tensor in enumerate(node.output):
            made = f"{name}.{index}" if index else name
            tensors.setdefault(tensor, f"{made}.made" if made in ends else made)
            node.output[index] = tensors[tensor]
        node.name, node.doc_string = name, ""
    draft.model.graph.name = "edgeres"
    return draft.written()


def with_usual_ends(model: onnx.ModelProto) -> onnx.ModelProto:
    """Input and the only output bear the names they have in every file of edgeres; several keep their own."""
    draft, ends = Draft(model), [value.name for value in model.graph.output]
    names = {draft.inputs[0].name: INPUT_NAME} | ({ends[0]: OUTPUT_NAME} if len(ends) == 1 else {})
    draft.swap_names({old: new for old, new in names.items() if old != new})
    written = draft.model
    for value in (*draft.inputs, *written.graph.output):
        value.name = names.get(value.name, value.name)
    draft.outputs = {value.name for value in written.graph.output}
    return draft.written()


def _node_names(nodes: list[onnx.NodeProto]) -> list[str]:
    names: dict[str, None] = {}
    for node in nodes:
        base = scope_of(node.name) if "/" in node.name else node.name
        if "/" in node.name and (node.op_type not in _MODULE_OPERATORS or not base):
            base = ".".join(filter(None, (base, node.op_type.lower())))
        names[free_of(names, base, "_", 1)] = None
    return list(names)


def _parameter_name(node: onnx.NodeProto, name: str, index: int, tensor: str) -> str:
    if not tensor.startswith(("onnx::", "/")):
        return tensor
    formals = onnx.defs.get_schema(node.op_type).inputs  # the last of some stands for any number
    formal = formals[min(index, len(formals) - 1)].name
    return f"{name}.{formal.lower()}"
