"""One thing that is wrong with a graph."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from edgeres.core.config import Record

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


def problems(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The findings that must stop a build: all but notes."""
    return tuple(finding for finding in findings if finding.severity != "note")
