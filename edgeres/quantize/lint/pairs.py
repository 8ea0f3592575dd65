"""Rules about single Quantize/DequantizeLinear nodes: zero point, type, scale; and what a JetPack's TensorRT reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeres.core.config import Record
from edgeres.core.jetpacks import RELEASES, newest_opset
from edgeres.core.names import lookup
from edgeres.graph.draft import Draft
from edgeres.graph.view import DQ, QDQ, WEIGHTED, GraphView, Q, attribute, name_of, opset_of, weight_axis

Severity = Literal["error", "speed", "note"]
TYPE = onnx.TensorProto
HALF = (TYPE.FLOAT16, TYPE.BFLOAT16)
HALF_SCALE_OPSET = 19
AXIS_OPSET = 13
_DEFAULT_AXIS = 1
_TYPES_SINCE = 10
_NEW_TYPES = frozenset(
    kind for name, kind in onnx.TensorProto.DataType.items() if name.startswith(("FLOAT8", "FLOAT4", "INT4", "UINT4"))
)
_LATER = "INT4 FP4 and FP8 are read by TensorRT 10 and later only"
_AGAIN = "calibrate and quantize again: edgeres calibrate FLOAT.onnx --data DATA, edgeres quantize FLOAT.onnx"


class Finding(Record):
    """`error`: TensorRT refuses the file or computes something else; `speed`: it computes, unfused; `note`: may matter.

    `fixable`: `edgeres lint --fix` can repair it.
    """

    rule: str
    severity: Severity
    node: str
    reason: str
    remedy: str
    fixable: bool = True

    def __str__(self) -> str:
        """One line."""
        return f"{self.severity}: {self.rule}: {self.node}: {self.reason}; {self.remedy}"


def finding_at(
    node: onnx.NodeProto, rule: str, reason: str, remedy: str, *, severity: Severity = "error", fixable: bool = True
) -> Finding:
    """What `rule` finds wrong with `node`."""
    return Finding(rule=rule, severity=severity, node=name_of(node), reason=reason, remedy=remedy, fixable=fixable)


def problems(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The findings that must stop a build: all but notes."""
    return tuple(finding for finding in findings if finding.severity != "note")


def pair_findings(view: GraphView) -> Iterator[Finding]:
    """All rules on all Q and DQ nodes; the second node of a pair only where it differs from the first."""
    for node in view.nodes:
        if node.op_type not in (Q, DQ):
            continue
        if node.domain not in ("", "ai.onnx"):
            reason = f"{node.op_type} of the domain {node.domain}"
            yield finding_at(node, "operator", reason, "use ONNX's own operator", severity="note")
        first = view.producers.get(node.input[0]) if node.op_type == DQ else None
        if first is None or first.op_type != Q or first.input[1:] != node.input[1:]:
            yield from _zero_point(view, node)
            yield from _scale(view, node)


def integer_type(view: GraphView | Draft, node: onnx.NodeProto) -> int:
    """TensorProto type of the integers: of the zero point, of the stored data, of `output_dtype`, else uint8."""
    for tensor in (node.input[2] if len(node.input) > 2 else "", node.input[0] if node.op_type == DQ else ""):
        stored = view.constants.get(tensor) if tensor else None
        if stored is not None:
            return int(stored.data_type)
    maker = view.producers.get(node.input[0])
    if node.op_type == DQ and maker is not None and maker.op_type == Q:
        return integer_type(view, maker)
    return attribute(node, "output_dtype", TYPE.UINT8 if node.op_type == Q else TYPE.INT8) or TYPE.UINT8


def _zero_point(view: GraphView, node: onnx.NodeProto) -> Iterator[Finding]:
    kind = integer_type(view, node)
    zero_point = node.input[2] if len(node.input) > 2 else ""
    values = view.value(zero_point) if zero_point else np.zeros(())
    if kind == TYPE.INT32:
        remedy = "keep the bias float (ONNX Runtime: QuantizeBias=False)"
        yield finding_at(node, "bias", "an int32 DequantizeLinear is refused", remedy)
    elif values is None:
        yield finding_at(node, "zero-point", "computed at run time", _AGAIN, fixable=False)
    elif kind not in (TYPE.INT8, TYPE.UINT8):
        name = TYPE.DataType.Name(kind)
        if name.endswith("16"):
            yield finding_at(node, "type", f"{name} is not known to TensorRT", "quantize to int8")
        else:
            yield finding_at(node, "type", f"{name}: {_LATER}", "check the target", severity="note", fixable=False)
    elif not zero_point and kind == TYPE.UINT8:
        yield finding_at(node, "zero-point", "missing, which means uint8", "store an int8 zero")
    elif np.asarray(values, np.int64).any():
        yield finding_at(node, "zero-point", f"not zero ({_shown(values)})", "quantize symmetrically")
    elif kind == TYPE.UINT8:
        reason = "uint8 with zero point 0 is silently taken for int8: values above 127 clip"
        yield finding_at(node, "type", reason, "quantize to symmetric int8")


def _scale(view: GraphView, node: onnx.NodeProto) -> Iterator[Finding]:
    stored, scale = view.constants.get(node.input[1]), view.value(node.input[1])
    if stored is None or scale is None:
        yield finding_at(node, "scale", "computed at run time", _AGAIN, fixable=False)
        return
    if stored.data_type in HALF and view.opset < HALF_SCALE_OPSET:
        reason = f"a half-precision scale needs opset {HALF_SCALE_OPSET}, the file has {view.opset}"
        yield finding_at(node, "opset", reason, f"export at opset {HALF_SCALE_OPSET}", fixable=False)
    numbers = np.asarray(scale, np.float64)
    bad = numbers[~(np.isfinite(numbers) & (numbers > 0))]
    if bad.size:
        yield finding_at(node, "scale", f"must be positive and finite ({_shown(bad)})", _AGAIN, fixable=False)
    elif view.is_weight(node) and integer_type(view, node) != TYPE.INT32:
        yield from _weight_scale(view, node, numbers)
    elif numbers.size > 1 and not view.is_weight(node):
        reason = f"an activation has {numbers.size} scales, must have one"
        yield finding_at(node, "scale", reason, "quantize activations per tensor")


def _weight_scale(view: GraphView, node: onnx.NodeProto, scale: NDArray[Any]) -> Iterator[Finding]:
    if attribute(node, "block_size", 0):
        if integer_type(view, node) in (TYPE.INT8, TYPE.UINT8):
            yield finding_at(node, "scale", "blocks of int8 weights are not known", "one scale per output channel")
        return
    data = view.constants.get(node.input[0]) or view.constants.get(view.source_of(node) or "")
    axis, ndim = attribute(node, "axis", _DEFAULT_AXIS), len(data.dims) if data is not None else 0
    if scale.size == 1:
        if ndim > 1 and data is not None and data.dims[0] > 1:
            reason = "one scale for all output channels costs accuracy"
            yield finding_at(node, "scale", reason, "quantize weights per channel", severity="note")
        return
    if view.opset < AXIS_OPSET:
        remedy = f"export at opset {AXIS_OPSET} or later"
        yield finding_at(node, "opset", f"per-channel scales need opset {AXIS_OPSET}", remedy, fixable=False)
    if data is None or not -ndim <= axis < ndim or data.dims[axis] != scale.size:
        count = data.dims[axis] if data is not None and -ndim <= axis < ndim else "no"
        yield finding_at(
            node, "scale", f"{scale.size} scales for {count} channels of axis {axis}", _AGAIN, fixable=False
        )
        return
    ends = [node] if node.op_type == DQ else [reader for reader, _ in view.readers[node.output[0]]]
    readers = (reader for end in ends if end.output for reader in view.readers[end.output[0]])
    wanted = {weight_axis(one, ndim) for one, index in readers if index == 1 and one.op_type in WEIGHTED}
    if wanted and wanted != {axis % ndim}:
        expected = ", ".join(map(str, sorted(wanted)))
        reason = f"scales along axis {axis}, output channels are axis {expected}"
        yield finding_at(node, "scale", reason, "one scale per output channel")


def _shown(values: NDArray[Any]) -> str:
    flat = np.asarray(values, np.float64).ravel()
    odd = flat[(flat != 0) | ~np.isfinite(flat)] if flat.size > 1 else flat
    return f"{(odd if odd.size else flat)[0]:g}"


def tensorrt_of(jetpack: str) -> str:
    """The TensorRT of a JetPack release, 7 being 7.0; raises InputError for one that is not known."""
    known = {release.name: release.tensorrt for release in RELEASES}
    return known.get(f"{jetpack}.0") or lookup(known, jetpack, "JetPack release")


def target_findings(model: onnx.ModelProto, jetpack: str | None) -> Iterator[Finding]:
    """Opset and integer types against the release; nothing without one."""
    if jetpack is None:
        return
    tensorrt = tensorrt_of(jetpack)
    where, newest = f"TensorRT {tensorrt} (JetPack {jetpack})", newest_opset(tensorrt) or 0
    if opset_of(model) > newest:
        reason, remedy = f"opset {opset_of(model)}, {where} reads up to {newest}", _remedy_for(model, newest)
        graph = model.graph.name or "graph"
        yield Finding(rule="opset", severity="error", node=graph, reason=reason, remedy=remedy, fixable=False)
    if int(tensorrt.partition(".")[0]) < _TYPES_SINCE:
        kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
        for node in model.graph.node:
            new = [kinds[name] for name in node.input if kinds.get(name) in _NEW_TYPES]
            if node.op_type in QDQ and new:
                reason = f"{onnx.TensorProto.DataType.Name(new[0])} is not known to {where}"
                yield finding_at(node, "type", reason, "quantize to int8", fixable=False)


def _remedy_for(model: onnx.ModelProto, opset: int) -> str:
    """An older opset, unless the file's scales are of a type that it does not have."""
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    scales = (node.input[1] for node in model.graph.node if node.op_type in QDQ)
    if opset < HALF_SCALE_OPSET and any(kinds.get(name) in HALF for name in scales):
        return f"half-precision scales need opset {HALF_SCALE_OPSET}; quantize with float scales (--profile tensorrt)"
    return f"export at opset {opset}"
