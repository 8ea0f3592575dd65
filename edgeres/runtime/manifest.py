"""Everything known about an engine when it was built: what stands in NAME.plan.json.

`edgeres.core.artifacts.Manifest` is the part that every reader needs. A field that was not known then (a plan of an
earlier edgeres, a build without a GPU) is None.
"""

from __future__ import annotations

import importlib.metadata
import platform
import re

from edgeres.core.artifacts import Engine, Manifest
from edgeres.core.config import Record, record_from_json

_CUDA_PACKAGE = re.compile(r"(tensorrt|tensorrt[-_]rtx)[-_]cu(\d+)(?:[-_]libs)?")


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
