"""What the TensorRT of a JetPack release reads.

The opsets are those of `edgeres.core.tensorrt`.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from edgeres.core.jetpacks import RELEASES
from edgeres.core.names import lookup
from edgeres.core.tensorrt import newest_opset
from edgeres.graph.view import QDQ, opset_of
from edgeres.quantize.lint.finding import Finding, finding_at
from edgeres.quantize.lint.pairs import HALF, HALF_SCALE_OPSET

_TYPES_SINCE = 10
_NEW_TYPES = frozenset(
    kind for name, kind in onnx.TensorProto.DataType.items() if name.startswith(("FLOAT8", "FLOAT4", "INT4", "UINT4"))
)


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
