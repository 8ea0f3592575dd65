"""What is known of an engine: its plan's first bytes, read without TensorRT, and what stands in NAME.plan.json.

    0-3    b"ftrt" TensorRT, b"vtrt" TensorRT-RTX
    24-27  version, one byte each: major, minor, patch, build

`edgeres.core.artifacts.Manifest` is the part of the JSON that every reader needs. A field that was not known when the
engine was built (a plan of an earlier edgeres, a build without a GPU) is None.

Source: `trtexec --getPlanVersionOnly` in NVIDIA/TensorRT; the bytes of TensorRT-RTX 1.7 plans.
"""

from __future__ import annotations

import importlib.metadata
import platform
import re
from pathlib import Path
from typing import NamedTuple

from edgeres.core.artifacts import Engine, Manifest
from edgeres.core.config import Record, record_from_json
from edgeres.core.errors import InputError

_CUDA_PACKAGE = re.compile(r"(tensorrt|tensorrt[-_]rtx)[-_]cu(\d+)(?:[-_]libs)?")
_MAGIC = {b"ftrt": "tensorrt", b"vtrt": "tensorrt-rtx"}
_VERSION = slice(24, 28)


class LayerCounts(Record):
    """The layer report in figures: kernels by precision, copies between formats, residual additions."""

    kernels: dict[str, int]
    reformats: int
    headline: str


class EngineManifest(Manifest):
    """`dtypes`: input or output -> TensorRT's name. `system`: such as "linux x86_64". `gpu`: where it was built.

    `cuda`: the driver's version, or the major one the package was made for where there was no driver. `flags`: names of
    the BuilderFlags that were set. `hardware_compatible`: AMPERE_PLUS or SAME_COMPUTE_CAPABILITY.
    """

    onnx_name: str | None = None
    dtypes: dict[str, str] | None = None
    system: str | None = None
    gpu: str | None = None
    cuda: str | None = None
    strongly_typed: bool | None = None
    flags: tuple[str, ...] = ()
    version_compatible: bool = False
    hardware_compatible: str | None = None
    dla_core: int | None = None
    timing_cache: str | None = None
    layers: LayerCounts | None = None


def manifest_of(engine: Engine) -> EngineManifest:
    """The whole manifest; raises InputError if there is none or it belongs to another plan."""
    _ = engine.manifest
    return record_from_json(EngineManifest, engine.manifest_path)


def this_system() -> str:
    """Operating system and processor, between which plans of TensorRT never move."""
    return f"{platform.system().lower()} {platform.machine().lower()}"


def packaged_cuda(runtime: str) -> str | None:
    """The major CUDA version that the installed package of `runtime` was made for, or None."""
    for distribution in importlib.metadata.distributions():
        match = _CUDA_PACKAGE.fullmatch((distribution.metadata["Name"] or "").lower())
        if match and match[1].replace("_", "-") == runtime:
            return match[2]
    return None


class PlanHeader(NamedTuple):
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
