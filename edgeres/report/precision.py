"""The numeric format each module of an ONNX graph computes in, read from the graph, whoever wrote it.

A layer (convolution, fully connected) is INT8 if both its input and its weights come from DequantizeLinear, which is
what an INT8 kernel is fused from; what an engine makes of it is the builder's decision. Nothing is run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from edgeres.core.artifacts import OnnxModel
from edgeres.core.errors import require
from edgeres.graph.blocks import modules_in
from edgeres.graph.view import DQ, WEIGHTED, GraphView, called

if TYPE_CHECKING:
    import onnx

OUTSIDE = "outside"  # stem, head and downsampling that is of no module
_INTEGER_OPS = frozenset({"QLinearConv", "ConvInteger", "QLinearMatMul", "MatMulInteger", "QGemm"})
_LAYER_OPS = WEIGHTED | _INTEGER_OPS


def module_precisions(model: OnnxModel) -> dict[str, tuple[str, ...]]:
    """Module -> the format of each of its layers in order, `outside` for layers of no module.

    Modules of files that edgeres wrote have their names, those of others the name of their residual addition.
    """
    require("onnx", "onnx")
    view = GraphView(model.proto)
    owner = {node: module for module, nodes in modules_in(view).items() for node in nodes}
    found: dict[str, list[str]] = {}
    for node in view.nodes:
        if node.op_type in _LAYER_OPS:
            found.setdefault(owner.get(called(node), OUTSIDE), []).append(_precision_of(node, view))
    return {name: tuple(layers) for name, layers in found.items()}


def as_label(layers: Sequence[str]) -> str:
    """`int8`, or `int8 1 of 2, fp32 1 of 2` where layers of one module differ."""
    kinds = list(dict.fromkeys(layers))
    if len(kinds) <= 1:
        return "".join(kinds)
    return ", ".join(f"{kind} {list(layers).count(kind)} of {len(layers)}" for kind in kinds)


def drawing_of(modules: Iterable[tuple[str, str]], width: int = 80) -> list[str]:
    """One box a module, a line a stage: `layer1  [INT8][----][FP32]`.

    modules: (name, label), label `dropped` or a precision; of a mixed one the box says MIX.
    """
    stages: dict[str, list[str]] = {}
    for name, label in modules:
        stages.setdefault(name.rpartition(".")[0] or name, []).append(_box(label))
    indent = max((len(stage) for stage in stages), default=0) + 2
    lines = []
    for stage, boxes in stages.items():
        room = max(1, (width - indent) // len(boxes[0]))
        parts = ["".join(boxes[start : start + room]) for start in range(0, len(boxes), room)]
        lines += [f"{stage if index == 0 else '':{indent}}{part}" for index, part in enumerate(parts)]
    return lines


def _box(label: str) -> str:
    if label == "dropped":
        return "[----]"
    text = "MIX" if " of " in label or "+" in label else label.upper()
    return f"[{text[:4]:^4}]"


def _precision_of(node: onnx.NodeProto, view: GraphView) -> str:
    if node.op_type in _INTEGER_OPS:
        return "int8"
    made = [view.op_of(tensor) for tensor in node.input[:2]]
    if made and all(op == DQ for op in made):
        return "int8"
    if DQ in made[1:]:
        return "int8 weights"
    return _float_format(_stored_behind(node, view))


def _stored_behind(layer: onnx.NodeProto, view: GraphView) -> Any:
    """The constant a weight comes from, through nodes of one input."""
    tensor = layer.input[1] if len(layer.input) > 1 else ""
    while tensor not in view.constants and (node := view.producers.get(tensor)) and node.input:
        tensor = node.input[0]
    return view.constants.get(tensor)


def _float_format(tensor: Any) -> str:
    names = {1: "fp32", 10: "fp16", 11: "fp64", 16: "bf16"}  # onnx.TensorProto.DataType
    return names.get(tensor.data_type, "other") if tensor is not None else "fp32"
