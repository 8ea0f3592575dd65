"""What this machine can and cannot do, each line with what to install."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Literal

from edgeres.core.config import Record
from edgeres.core.environment import Environment, available_cores, cpu_flags, environment, package_versions

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
