"""Rules about where pairs stand: layers, residual additions, what is fused into a layer, foreign operators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import onnx

from edgeres.core.onnx_file import is_on_integers
from edgeres.graph.blocks import Block, fusions_in
from edgeres.graph.view import DQ, QDQ, WEIGHTED, GraphView, Q, name_of
from edgeres.quantize.lint.pairs import TYPE, Finding, finding_at, integer_type
from edgeres.quantize.placement import COMMUTING, is_average

POOL, NUMBER = "pool", "number"
POOL_REMEDY = "calibrate it and quantize it; --fix --data DATA takes its range from images"
_FUSED = frozenset({"Relu", "BatchNormalization", "Clip", "LeakyRelu"})


def structure_findings(view: GraphView, float_skips: frozenset[str] = frozenset()) -> Iterator[Finding]:
    """All rules that look at more than one node; the skips of the additions `float_skips` are float on purpose."""
    yield from _names(view)
    for tensor, node in view.broken.items():
        if node.op_type not in QDQ or tensor == node.input[0]:  # a scale has a rule of its own
            yield finding_at(node, NUMBER, f"{tensor} holds NaN or infinity", "train again", fixable=False)
    for node in view.nodes:
        if is_on_integers(node):
            remedy = "write Quantize/Dequantize pairs (ONNX Runtime: QuantFormat.QDQ)"
            yield finding_at(node, "operator", f"{node.op_type} is not understood by TensorRT", remedy, fixable=False)
        elif node.op_type in WEIGHTED and len(node.input) > 1:
            yield from _half(view, node)
        elif node.op_type == Q and not view.is_weight(node):
            yield from _split(view, node)
        elif node.op_type == "BatchNormalization":
            yield from _batch_norm(view, node)
    for block in fusions_in(view):
        yield from _skip(view, block, meant=block.addition.name in float_skips)
    yield from _pools(view, float_skips)
    yield from _two_scales(view)


def _names(view: GraphView) -> Iterator[Finding]:
    for name, count in Counter(node.name for node in view.nodes if node.name).items():
        if count > 1:
            reason = f"{count} nodes have this name; TensorRT and ONNX Runtime take a name once"
            remedy = "give each a name of its own, or none"
            yield Finding(rule="name", severity="error", node=name, reason=reason, remedy=remedy)


def _is_quantized(view: GraphView, tensor: str) -> bool:
    """Whether `tensor` comes from a DequantizeLinear, through nothing but what TensorRT moves a pair across."""
    while view.op_of(tensor) in COMMUTING:
        tensor = view.producers[tensor].input[0]
    return view.op_of(tensor) == DQ


def _half(view: GraphView, node: onnx.NodeProto) -> Iterator[Finding]:
    weight = view.weight_pair(node)
    if weight is not None and integer_type(view, weight) not in (TYPE.INT8, TYPE.UINT8):
        return  # weights of 4 bits are meant to stand alone
    if _is_quantized(view, node.input[0]) != (weight is not None):
        reason = f"only its {'input' if weight is None else 'weights'} quantized, it runs in float"
        yield finding_at(node, "half", reason, "quantize input and weights, or neither", severity="speed")


def _split(view: GraphView, node: onnx.NodeProto) -> Iterator[Finding]:
    if view.op_of(node.input[0]) not in WEIGHTED:
        return
    for end, _ in view.readers[node.output[0]]:
        for reader, index in view.readers[end.output[0]]:
            if reader.op_type in _FUSED and index == 0:
                maker = name_of(view.producers[node.input[0]])
                reason = f"stands between {maker} and {name_of(reader)}, which are fused without it"
                yield finding_at(node, "split", reason, f"move the pair behind {name_of(reader)}", severity="speed")


def _batch_norm(view: GraphView, node: onnx.NodeProto) -> Iterator[Finding]:
    tensor = node.input[0]
    if view.op_of(tensor) == DQ:
        tensor = view.source_of(view.producers[tensor]) or tensor
    layer = view.producers.get(tensor)
    if layer is not None and layer.op_type == "Conv" and view.weight_pair(layer) is not None:
        reason = f"not folded into {name_of(layer)}, whose INT8 weights cannot take it up"
        yield finding_at(node, "batch-norm", reason, "fold it before quantizing", severity="speed")


def _skip(view: GraphView, block: Block, *, meant: bool) -> Iterator[Finding]:
    node = block.addition
    skip_is_quantized, branch_is_quantized = (_is_quantized(view, tensor) for tensor in (block.skip, block.branch))
    if branch_is_quantized:
        both = "both inputs" if skip_is_quantized else "the main branch"
        reason = f"{both} quantized, the addition cannot be fused into the layer before it"
        yield finding_at(node, "skip", reason, "quantize the skip only", severity="speed")
    elif not skip_is_quantized:
        layer = view.layer_before(block.branch)
        if layer is not None and _is_quantized(view, layer.input[0]) and view.weight_pair(layer) is not None:
            known = any(reader.op_type == Q for reader, _ in view.readers[block.skip])
            remedy = "let it read the pair that is there" if known else "calibrate it and quantize it"
            reason = f"its skip {block.skip} is float, {name_of(layer)} cannot end in INT8 with it"
            if meant:
                reason, remedy = f"{reason}; edgeres quantize left it so on purpose", "nothing to do"
                yield finding_at(node, "skip", reason, remedy, severity="note", fixable=False)
                return
            yield finding_at(node, "skip", reason, remedy, severity="speed", fixable=known)


def _pools(view: GraphView, float_skips: frozenset[str]) -> Iterator[Finding]:
    """Average pools between an INT8 kernel and a pair, without a pair in front."""
    ends = {block.output: block for block in fusions_in(view)}
    for pool in (node for node in view.nodes if is_average(view, node)):
        source = str(pool.input[0])
        if _is_quantized(view, source) or not _is_quantized_next(view, str(pool.output[0])):
            continue
        if not all(is_average(view, reader) or _leads_to_pair(view, reader) for reader, _ in view.readers[source]):
            continue
        maker, tensor = view.producers.get(source), source
        while maker is not None and tensor not in ends and maker.op_type not in WEIGHTED and maker.input:
            tensor = view.passed_on(maker)
            maker = view.producers.get(tensor)
        if maker is None or source in view.outputs or not _is_int8(view, maker, ends.get(tensor), float_skips):
            continue
        known = any(reader.op_type == Q for reader, _ in view.readers[source])
        remedy = "let it read the pair that is there" if known else POOL_REMEDY
        reason = f"its input {source} is float, {name_of(maker)} cannot end in INT8 with it"
        yield finding_at(pool, POOL, reason, remedy, severity="speed", fixable=known)


def _is_int8(view: GraphView, node: onnx.NodeProto, block: Block | None, float_skips: frozenset[str]) -> bool:
    """Whether the layer `node`, or the addition that ends `block`, reads INT8 alone."""
    layer = view.layer_before(block.branch) if block else node
    if block and (block.addition.name in float_skips or not _is_quantized(view, block.skip)):
        return False
    return layer is not None and view.weight_pair(layer) is not None and _is_quantized(view, layer.input[0])


def _is_quantized_next(view: GraphView, tensor: str) -> bool:
    """Whether pairs alone read `tensor`, perhaps behind what they are moved across."""
    readers = view.readers[tensor]
    return bool(readers) and tensor not in view.outputs and all(_leads_to_pair(view, reader) for reader, _ in readers)


def _leads_to_pair(view: GraphView, reader: onnx.NodeProto) -> bool:
    return reader.op_type == Q or (reader.op_type in COMMUTING and _is_quantized_next(view, str(reader.output[0])))


def _two_scales(view: GraphView) -> Iterator[Finding]:
    for tensor, readers in view.readers.items():
        pairs = [node for node, index in readers if node.op_type == Q and index == 0]
        scales = [view.value(node.input[1]) for node in pairs]
        if len({np.asarray(scale, np.float32).tobytes() for scale in scales if scale is not None}) > 1:
            reason = f"{tensor} is quantized {len(pairs)} times with different scales"
            yield finding_at(pairs[0], "two-scales", reason, "share one pair", severity="note")
