"""What the TensorRT of a JetPack release reads.

The opsets are those of `edgeres.core.tensorrt`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx

from edgeres.core.jetpacks import RELEASES
from edgeres.core.names import lookup
from edgeres.core.tensorrt import newest_opset
from edgeres.graph.view import DQ, Q
from edgeres.quantize.lint.finding import Finding
from edgeres.quantize.lint.pairs import HALF, HALF_SCALE_OPSET

_TYPES_SINCE = 10
_NEW_TYPES = frozenset(
    kind for name, kind in onnx.TensorProto.DataType.items() if name.startswith(("FLOAT8", "FLOAT4", "INT4", "UINT4"))
)


@dataclass(frozen=True)
class Target:
    """The TensorRT of a JetPack release and the newest opset it reads."""

    tensorrt: str

    @property
    def opset(self) -> int:
        """As its TensorRT has it."""
        return newest_opset(self.tensorrt) or 0


JETPACKS = {release.name: Target(release.tensorrt) for release in RELEASES}


def target_named(jetpack: str) -> Target:
    """That of a JetPack release, 7 being 7.0; raises InputError for one that is not known."""
    return JETPACKS.get(f"{jetpack}.0") or lookup(JETPACKS, jetpack, "JetPack release")


def target_findings(model: onnx.ModelProto, jetpack: str | None) -> Iterator[Finding]:
    """Opset and integer types against the release; nothing without one."""
    if jetpack is None:
        return
    target = target_named(jetpack)
    where = f"TensorRT {target.tensorrt} (JetPack {jetpack})"
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx") and entry.version > target.opset:
            reason = f"opset {entry.version}, {where} reads up to {target.opset}"
            yield _finding("opset", model.graph.name or "graph", reason, _remedy_for(model, target.opset))
    if int(target.tensorrt.partition(".")[0]) < _TYPES_SINCE:
        kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
        for node in model.graph.node:
            new = [kinds[name] for name in node.input if kinds.get(name) in _NEW_TYPES]
            if node.op_type in (Q, DQ) and new:
                reason = f"{onnx.TensorProto.DataType.Name(new[0])} is not known to {where}"
                yield _finding("type", node.name or node.output[0], reason, "quantize to int8")


def _remedy_for(model: onnx.ModelProto, opset: int) -> str:
    """An older opset, unless the file's scales are of a type that it does not have."""
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    scales = (node.input[1] for node in model.graph.node if node.op_type in (Q, DQ))
    if opset < HALF_SCALE_OPSET and any(kinds.get(name) in HALF for name in scales):
        return f"half-precision scales need opset {HALF_SCALE_OPSET}; quantize with float scales (--profile tensorrt)"
    return f"export at opset {opset}"


def _finding(rule: str, node: str, reason: str, remedy: str) -> Finding:
    return Finding(rule=rule, severity="error", node=node, reason=reason, remedy=remedy, fixable=False)
