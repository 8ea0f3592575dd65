"""Which machine and which versions a number belongs to; what this machine can and cannot do, with what to install."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field

import edgeres
from edgeres.core.amounts import counted
from edgeres.core.config import Record

_PACKAGES = ("torch", "torchvision", "onnx", "onnxruntime", "tensorrt", "tensorrt-rtx", "torch-tensorrt", "numpy")
_CPUS = Path("/sys/devices/system/cpu")
_THREAD_SETTINGS = ("OMP_", "KMP_", "GOMP_", "MKL_", "OPENBLAS_", "NUMEXPR_", "ORT_")
_KHZ_PER_MHZ = 1000
_EXTRAS = {
    "train": (("torch", "torchvision", "safetensors", "accelerate"), "train, import, lesion, prune, recover, export"),
    "onnx": (("onnx", "onnxruntime", "onnxscript"), "export, calibrate, quantize; eval and bench of .onnx"),
    "rtx": (("tensorrt-rtx",), "compile for PC GPUs without a GPU"),
    "tensorrt": (("tensorrt",), "compile for the GPU in this machine"),
    "data": (("scikit-learn",), "the digits data set"),
    "report": (("jinja2", "matplotlib"), "report.html"),
    "boards": (("fabric",), "boards over ssh"),
    "gpu": (("nvidia-ml-py",), "power of the GPU in this machine"),
}
_VNNI = {"avx512_vnni", "avx_vnni", "asimddp"}
_DEVICE_TREE = Path("/proc/device-tree/model")
_TRTEXEC = Path("/usr/src/tensorrt/bin/trtexec")


class Environment(Record):
    """Fingerprint of the machine at the time of a measurement; `machine` is what two latencies must share.

    `affinity`: the cores this process may use. `governor` and `clock_mhz` (of each of these cores, at this moment) are
    None where the system does not say, as in most virtual machines. `thread_settings`: variables such as
    OMP_NUM_THREADS that change how many threads a library starts.
    """

    machine: str
    cpu: str
    cores: int
    memory_gib: float
    gpus: tuple[str, ...]
    system: str
    python: str
    edgeres: str
    packages: dict[str, str]
    load_1min: float | None = None
    affinity: tuple[int, ...] = ()
    governor: str | None = None
    clock_mhz: tuple[float, ...] | None = None
    thread_settings: dict[str, str] = Field(default_factory=dict)


def environment() -> Environment:
    """The present machine."""
    cpu = _of_cpu("model name") or platform.processor() or platform.machine()
    cores, gpus = available_cores(), gpu_names()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return Environment(
        machine=", ".join([f"{cpu}, {counted(cores, 'core')}", *gpus]),
        cpu=cpu,
        cores=cores,
        memory_gib=_memory_gib(),
        gpus=gpus,
        system=platform.platform(),
        python=platform.python_version(),
        edgeres=edgeres.__version__,
        packages=package_versions(_PACKAGES),
        load_1min=load,
        affinity=affinity(),
        governor=governor(),
        clock_mhz=clock_mhz(),
        thread_settings={name: os.environ[name] for name in sorted(os.environ) if name.startswith(_THREAD_SETTINGS)},
    )


def available_cores() -> int:
    """Processors this process may use."""
    return len(affinity())


def default_threads() -> int:
    """CPU threads where none are asked for: OMP_NUM_THREADS (its first number), otherwise every available core.

    Source: OpenMP 5.2, section 21.1.2.
    """
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) > 0 else available_cores()


def affinity() -> tuple[int, ...]:
    """Numbers of the processors this process may use."""
    return tuple(sorted(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)))


def governor() -> str | None:
    """Who decides the clock frequency, as in "performance"; several joined by "/"; None where Linux does not say."""
    found = {text for core in affinity() if (text := _of_core(core, "scaling_governor"))}
    return "/".join(sorted(found)) or None


def clock_mhz() -> tuple[float, ...] | None:
    """Clock frequency of each processor of `affinity`, now; None where Linux does not say it of all."""
    found = [_of_core(core, "scaling_cur_freq") for core in affinity()]
    if not found or not all(text is not None and text.isdigit() for text in found):
        return None
    return tuple(int(text) / _KHZ_PER_MHZ for text in found if text)


def package_versions(names: tuple[str, ...]) -> dict[str, str]:
    """Installed versions, absent packages left out; nothing is imported."""
    return {name: version for name in names if (version := _version(name))}


@lru_cache(maxsize=1)
def gpu_names() -> tuple[str, ...]:
    """Names of the NVIDIA GPUs as nvidia-smi lists them; empty without a driver."""
    if shutil.which("nvidia-smi") is None:
        return ()
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        listing = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(line.strip() for line in listing.splitlines() if line.strip())


def cpu_flags() -> frozenset[str]:
    """Instruction sets of the CPU as Linux lists them; empty elsewhere."""
    return frozenset(_of_cpu("flags", "Features").split())


@lru_cache
def _version(package: str) -> str | None:
    """Looked up once in a process: every stage's report names them all."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None


def _of_core(core: int, name: str) -> str | None:
    try:
        return (_CPUS / f"cpu{core}" / "cpufreq" / name).read_text(encoding="utf-8").strip()
    except OSError:
        return None


def _of_cpu(*names: str) -> str:
    """What Linux says of the CPU under the first of these names that it knows; empty elsewhere."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(names):
                return line.partition(":")[2].strip()
    return ""


def _memory_gib() -> float:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return 0.0


class Check(Record):
    """One thing edgeres may need: `remedy` says how to get it if it is missing."""

    name: str
    status: Literal["ok", "missing", "info"]
    detail: str
    remedy: str = ""


class Diagnosis(Record):
    """The machine and all checks."""

    schema_version: int = 1
    environment: Environment
    checks: tuple[Check, ...]


def diagnosis() -> Diagnosis:
    """Checks this machine; imports none of the packages it looks for."""
    here = environment()
    checks = [_extra(name) for name in _EXTRAS]
    return Diagnosis(environment=here, checks=(_jetson(), _gpu(here), _int8_cpu(), *checks, _trtexec()))


def _extra(name: str) -> Check:
    packages, use = _EXTRAS[name]
    found = package_versions(packages)
    missing = [package for package in packages if package not in found]
    if not missing:
        versions = ", ".join(f"{package} {version}" for package, version in found.items())
        return Check(name=name, status="ok", detail=f"{versions}: {use}")
    detail, remedy = f"{', '.join(missing)} not installed: no {use}", f"pip install 'edgeres[{name}]'"
    return Check(name=name, status="missing", detail=detail, remedy=remedy)


def _gpu(here: Environment) -> Check:
    if here.gpus:
        return Check(name="gpu", status="ok", detail=", ".join(here.gpus))
    detail = "no NVIDIA GPU found: training and measuring use the CPU; engines can be built (rtx), not run"
    return Check(name="gpu", status="info", detail=detail)


def _jetson() -> Check:
    try:
        model = _DEVICE_TREE.read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError:
        model = ""
    if "jetson" in model.lower() or "nvidia" in model.lower():
        return Check(name="jetson", status="ok", detail=model)
    return Check(name="jetson", status="info", detail="this is not a Jetson; its engines are built on the board")


def _int8_cpu() -> Check:
    found = sorted(_VNNI & cpu_flags())
    text = f"{', '.join(found)}: integer sums are exact" if found else "no VNNI: fused INT8 on this CPU may saturate"
    detail = f"{text}; accuracy is judged on literal Q/DQ either way ({available_cores()} cores)"
    return Check(name="int8 on cpu", status="info", detail=detail)


def _trtexec() -> Check:
    if path := shutil.which("trtexec") or (str(_TRTEXEC) if _TRTEXEC.is_file() else None):
        return Check(name="trtexec", status="ok", detail=path)
    has_binding = importlib.util.find_spec("tensorrt") is not None
    detail = "no trtexec here" + (", the tensorrt binding is" if has_binding else " and no tensorrt binding")
    return Check(name="trtexec", status="info", detail=detail)
