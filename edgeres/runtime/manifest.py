"""What is known of an engine: its plan's first bytes, read without TensorRT, and what stands in NAME.plan.json.

    0-3    b"ftrt" TensorRT, b"vtrt" TensorRT-RTX
    24-27  version, one byte each: major, minor, patch, build

`edgeres.core.artifacts.Manifest` is the part of the JSON that every reader needs. A field that was not known when the
engine was built (a plan of an earlier edgeres, a build without a GPU) is None.

So whether it can run on a machine is told before the runtime is asked, in words and with the way out:

    TensorRT      one system, one GPU architecture, one version; with VERSION_COMPATIBLE also later ones (8 -> 10,
                  10 -> 11, not 8 -> 11), with a hardware level also other GPUs, on no Jetson
    TensorRT-RTX  the architectures it was built for, one version, any operating system

GPUs go by the name of their architecture, `sm86` being compute capability 8.6. A plan without a manifest has only its
header to be judged by: runtime and version.

Source: `trtexec --getPlanVersionOnly` in NVIDIA/TensorRT; the bytes of TensorRT-RTX 1.7 plans; documentation of both,
"Engine compatibility"; support matrix of TensorRT 11.4.1. None of this has been tried on hardware.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from edgeres.core.artifacts import Engine, Manifest
from edgeres.core.config import Record, record_from_json
from edgeres.core.environment import package_versions
from edgeres.core.errors import DeviceError, InputError
from edgeres.core.lineage import advised, source_of
from edgeres.runtime.cuda import CudaError, Gpu, first_gpu

_CUDA_PACKAGE = re.compile(r"(tensorrt|tensorrt[-_]rtx)[-_]cu(\d+)(?:[-_]libs)?")
_MAGIC = {b"ftrt": "tensorrt", b"vtrt": "tensorrt-rtx"}
_VERSION = slice(24, 28)
RTX_TARGETS = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
JETSON_TARGETS = {
    "sm53": "Jetson Nano and TX1",
    "sm62": "Jetson TX2",
    "sm72": "Jetson Xavier",
    "sm87": "Jetson Orin",
    "sm101": "Jetson Thor",
    "sm110": "Jetson Thor",
}
NAMES = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}
_PACKAGES = {
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu11"),
    "tensorrt-rtx": ("tensorrt-rtx",),
}
_AMPERE = 80
_LATER_MAJORS = {(8, 10), (10, 11)}  # a version-compatible plan of the first runs in the second


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


def capability(target: str) -> int:
    """86 of `sm86`, to compare with; raises InputError if it is no such name."""
    digits = target.removeprefix("sm")
    if not (target.startswith("sm") and digits.isdecimal()):
        raise InputError(f"{target!r} is not a GPU architecture; they are called as sm86")
    return int(digits)


def local_gpu() -> Gpu:
    """The first GPU, asked of the CUDA driver; raises DeviceError if there is none."""
    try:
        return first_gpu()
    except CudaError as err:
        raise DeviceError(
            f"TensorRT builds engines for the GPU it runs on and finds none here: {err}; run this on the board"
        ) from err


@dataclass(frozen=True)
class Host:
    """A machine engines run on: `versions` has an entry per installed runtime, `gpu` is None without a driver."""

    system: str
    gpu: Gpu | None
    versions: dict[str, str]


def this_host() -> Host:
    """The present machine; nothing is imported."""
    gpu = None
    with contextlib.suppress(DeviceError):
        gpu = local_gpu()
    found = {runtime: package_versions(packages) for runtime, packages in _PACKAGES.items()}
    return Host(this_system(), gpu, {runtime: next(iter(here.values())) for runtime, here in found.items() if here})


def check_runnable(path: Path, host: Host, runtime: str | None = None) -> tuple[str, ...]:
    """Sentences worth knowing about an engine that runs on `host`, by `runtime` if that is given.

    Raises:
        DeviceError: it cannot run there; says why and which command builds one that can.
        InputError: `path` is no plan, or its manifest belongs to another.
    """
    header, engine = plan_header(path), Engine(path)
    manifest = manifest_of(engine) if engine.manifest_path.is_file() else None
    problem = (
        _other_runtime(header.runtime, host, runtime)
        or (_other_system(manifest, header.runtime, host) if manifest else None)
        or _other_gpu(manifest, header.runtime, host)
        or _other_version(header.version, manifest, header.runtime, host.versions[header.runtime])
    )
    if problem is not None:
        known = [header.runtime] if header.runtime in host.versions else [*host.versions, header.runtime]
        raise DeviceError(f"{path} {problem}; {_way_out(path, manifest, host, runtime or known[0])}")
    return _remarks(manifest, host)


def _other_runtime(own: str, host: Host, asked: str | None) -> str | None:
    if asked is not None and asked != own:
        return f"is an engine of {NAMES[own]}, which {NAMES[asked]} cannot run"
    if own in host.versions:
        return None
    others = [f"{NAMES[name]} {version}" for name, version in host.versions.items()]
    what = f"{' and '.join(others)} cannot run it" if others else "no other runtime either"
    return f"is an engine of {NAMES[own]}, which is not installed here ({what})"


def _other_system(manifest: EngineManifest, runtime: str, host: Host) -> str | None:
    if runtime != "tensorrt" or manifest.system is None or manifest.system == host.system:
        return None
    return f"was built on {manifest.system} and cannot run on {host.system}"


def _other_gpu(manifest: EngineManifest | None, runtime: str, host: Host) -> str | None:
    if host.gpu is None:
        built_for = f" ({', '.join(manifest.targets)})" if manifest else ""
        return f"needs an NVIDIA GPU{built_for}, and there is none here"
    here = host.gpu.target
    if manifest is None or here in manifest.targets:
        return None
    if manifest.hardware_compatible == "AMPERE_PLUS":
        if here in JETSON_TARGETS:
            return f"is compatible with GPUs of a PC, not with {here} ({JETSON_TARGETS[here]})"
        if capability(here) >= _AMPERE:
            return None
    return f"was built for {', '.join(manifest.targets)} by {NAMES[runtime]} and cannot run on {here} ({host.gpu.name})"


def _other_version(own: str, manifest: EngineManifest | None, runtime: str, here: str) -> str | None:
    built, present = _numbers(own), _numbers(here)
    shared = min(len(built), len(present))
    if built[:shared] == present[:shared]:
        return None
    later = built < present and (built[0] == present[0] or (built[0], present[0]) in _LATER_MAJORS)
    if later and manifest is not None and manifest.version_compatible:
        return None
    return f"was built with {NAMES[runtime]} {own} and cannot run with {here}"


def _way_out(path: Path, manifest: EngineManifest | None, host: Host, runtime: str) -> str:
    """The command that builds one for this machine, whose `runtime` is the plan's own or the one that is installed."""
    onnx = source_of(path) or (manifest.onnx_name if manifest else None) or "MODEL.onnx"
    if host.gpu is None and manifest and manifest.options.get("builder") == "trtexec":
        return f"a board built it ({manifest.gpu}) and runs it: {advised('edgeres bench', path, on='NAME')}"
    if host.gpu is None:
        judging = advised("edgeres eval", onnx)
        return f"run it where its GPU is; its accuracy can be judged here on its graph: {judging}"
    if runtime == "tensorrt-rtx" and host.gpu.target in RTX_TARGETS:
        return f"build one for here: {advised('edgeres compile', onnx)} --targets {host.gpu.target}"
    return f"build one here: {advised('edgeres compile', onnx)} --runtime tensorrt"


def _remarks(manifest: EngineManifest | None, host: Host) -> tuple[str, ...]:
    if manifest is None:
        return ("it has no manifest (not built by edgeres?): its GPU is found out by loading it",)
    if manifest.runtime == "tensorrt" and manifest.gpu and host.gpu and manifest.gpu != host.gpu.name:
        return (f"built on {manifest.gpu}, run on {host.gpu.name}: may be slower than one built here",)
    return ()


def _numbers(version: str) -> tuple[int, ...]:
    """(10, 3, 0) of 10.3.0; what is no number ends it."""
    parts = []
    for part in version.split("."):
        if not part.isdecimal():
            break
        parts.append(int(part))
    if not parts:
        raise InputError(f"{version!r} is no version of TensorRT")
    return tuple(parts)
