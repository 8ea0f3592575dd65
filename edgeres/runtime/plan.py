"""What a plan's first bytes say, read without TensorRT.

    0-3    b"ftrt" TensorRT, b"vtrt" TensorRT-RTX
    24-27  version, one byte each: major, minor, patch, build

Source: `trtexec --getPlanVersionOnly` in NVIDIA/TensorRT; the bytes of TensorRT-RTX 1.7 plans.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeres.core.errors import InputError

_MAGIC = {b"ftrt": "tensorrt", b"vtrt": "tensorrt-rtx"}
_VERSION = slice(24, 28)


@dataclass(frozen=True)
class PlanHeader:
    """The runtime a plan belongs to and the version that wrote it."""

    runtime: str
    version: str


def plan_header(path: Path) -> PlanHeader:
    """The header of the plan at `path`; raises InputError if it is none."""
    try:
        with path.open("rb") as file:
            head = file.read(_VERSION.stop)
    except OSError as err:
        raise InputError(f"cannot read {path}: {err.strerror}") from err
    runtime = _MAGIC.get(head[:4])
    if runtime is None or len(head) < _VERSION.stop:
        raise InputError(f"{path} is not a TensorRT plan (it begins with {head[:4]!r})")
    return PlanHeader(runtime, ".".join(str(byte) for byte in head[_VERSION]))
