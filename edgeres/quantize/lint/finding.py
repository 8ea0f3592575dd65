"""One thing that is wrong with a graph."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import onnx

from edgeres.core.config import Record
from edgeres.graph.view import name_of

Severity = Literal["error", "speed", "note"]


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
