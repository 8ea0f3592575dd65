"""What keeps a Q/DQ graph from TensorRT's fused INT8 kernels, read off the graph alone, whoever wrote the file.

    name           every node has its own, or none
    number         no stored number is NaN or infinite
    zero-point     every pair has an explicit int8 zero: others are refused
    type           int8; uint8 with zero point 0 is taken for int8 silently, 16 bits are not known at all
    bias           float: an int32 DequantizeLinear is refused
    scale          constant, positive, finite; a scalar for activations, one per output channel for weights
    half           a layer has its input and its weights quantized, or neither
    skip           a residual addition has exactly one quantized input, the skip
    pool           an average pool between INT8 kernels has its input quantized, as what it makes is
    split          no pair between a layer and the ReLU or batch norm that is fused into it
    batch-norm     folded into the quantized convolution before it
    two-scales     one pair serves all readers of a tensor
    operator       Quantize/DequantizeLinear of ONNX, not QLinearConv, ConvInteger and the like
    opset          what the target's TensorRT reads; fp16 scales from opset 19

Source: TensorRT developer guide, "Explicit quantization"; the refusals are those of TensorRT-RTX 1.7's parser.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from edgeres.core.artifacts import float_skips_of
from edgeres.core.onnx_file import is_on_integers
from edgeres.graph.view import QDQ, GraphView
from edgeres.quantize.lint.pairs import Finding, pair_findings, problems, target_findings
from edgeres.quantize.lint.structure import structure_findings

__all__ = ["Finding", "is_quantized", "lint", "problems"]


def lint(model: onnx.ModelProto, *, target: str | None = None) -> tuple[Finding, ...]:
    """Findings in order of execution; empty for a clean graph and for a float one.

    `target` is a JetPack release. Raises InputError if it is not known.
    """
    found = list(target_findings(model, target))
    float_skips = frozenset(float_skips_of(model))
    for view in _views(model):
        found += [*pair_findings(view), *structure_findings(view, float_skips)]
    return tuple(found)


def is_quantized(model: onnx.ModelProto) -> bool:
    """Whether any node quantizes or works on integers."""
    return any(node.op_type in QDQ or is_on_integers(node) for view in _views(model) for node in view.nodes)


def _views(
    model: onnx.ModelProto, body: onnx.GraphProto | None = None, outer: GraphView | None = None
) -> Iterator[GraphView]:
    """The graph and the bodies of its If, Loop and Scan nodes, which see the tensors around them."""
    view = GraphView(model, body, outer)
    yield view
    for node in view.nodes:
        for entry in node.attribute:
            for body in [entry.g] if entry.type == onnx.AttributeProto.GRAPH else entry.graphs:
                yield from _views(model, body, view)
