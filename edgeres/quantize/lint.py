"""What a Q/DQ graph must obey so that TensorRT fuses it into INT8 kernels, read off the graph alone.

    zero-point     int8 and zero on every Q and DQ: TensorRT refuses others, and takes uint8 for int8 silently
    scale          positive and finite; a scalar for activations, one per output channel (axis 0) for weights
    bias           float: an int32 DequantizeLinear is refused
    half           a layer has its input and its weights quantized, or neither
    skip           a residual addition has exactly one quantized input
    split          no pair between a layer and the ReLU or batch norm that is fused into it
    operator       no QLinearConv, ConvInteger and the like

Source: TensorRT developer guide, "Explicit quantization"; the refusals are those of TensorRT-RTX 1.7's
parser.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import numpy_helper

from edgeres.quantize.graph import LAYERS, QDQ, GraphView

_OPERATOR_FORMAT = ("QLinear", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear")
_FUSED = frozenset({"Relu", "BatchNormalization"})


def lint(model: onnx.ModelProto) -> tuple[str, ...]:
    """One line per broken rule, `rule: node: what`; empty for a clean graph."""
    view = GraphView(model)
    problems: list[str] = []
    for node in view.nodes:
        if node.op_type in QDQ:
            problems += _zero_point(view, node)
            problems += _scale(view, node)
            problems += _split(view, node)
        elif node.op_type in LAYERS:
            problems += _layer(view, node)
        elif node.op_type.startswith(_OPERATOR_FORMAT):
            problems.append(f"operator: {node.name}: {node.op_type} is not understood by TensorRT")
    for node in view.additions:
        problems += _skip(view, node)
    return tuple(problems)


def _zero_point(view: GraphView, node: onnx.NodeProto) -> Iterator[str]:
    stored = view.initializers.get(node.input[2]) if len(node.input) > 2 else None
    if stored is None:
        yield f"zero-point: {node.name}: missing"
    elif stored.data_type != onnx.TensorProto.INT8:
        yield f"zero-point: {node.name}: {onnx.TensorProto.DataType.Name(stored.data_type)}, must be INT8"
    elif numpy_helper.to_array(stored).any():
        yield f"zero-point: {node.name}: not zero"


def _scale(view: GraphView, node: onnx.NodeProto) -> Iterator[str]:
    scale = numpy_helper.to_array(view.initializers[node.input[1]])
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        yield f"scale: {node.name}: must be positive and finite"
    weight = view.initializers.get(node.input[0])
    if weight is None and scale.ndim:
        yield f"scale: {node.name}: an activation has {scale.size} scales, must have one"
    elif weight is not None and scale.shape != tuple(weight.dims[:1]):
        yield f"scale: {node.name}: {scale.size} scales for {weight.dims[0]} output channels"
    elif weight is not None and not any(entry.name == "axis" and entry.i == 0 for entry in node.attribute):
        yield f"scale: {node.name}: per-channel weights must have axis 0"


def _layer(view: GraphView, node: onnx.NodeProto) -> Iterator[str]:
    quantized = [view.op_of(tensor) == "DequantizeLinear" for tensor in node.input]
    if quantized[0] != quantized[1]:
        yield f"half: {node.name}: only its {'input' if quantized[0] else 'weights'} quantized"
    if any(quantized[2:]):
        yield f"bias: {node.name}: must stay float"


def _skip(view: GraphView, node: onnx.NodeProto) -> Iterator[str]:
    quantized = sum(view.op_of(tensor) == "DequantizeLinear" for tensor in node.input)
    if quantized != 1:
        yield f"skip: {node.name}: {quantized} inputs quantized, must be one"


def _split(view: GraphView, node: onnx.NodeProto) -> Iterator[str]:
    if node.op_type == "QuantizeLinear" and view.op_of(node.input[0]) in LAYERS:
        for pair, _ in view.readers[node.output[0]]:
            for reader, _ in view.readers[pair.output[0]]:
                if reader.op_type in _FUSED:
                    yield f"split: {node.name}: stands between {node.input[0]} and {reader.name}"
