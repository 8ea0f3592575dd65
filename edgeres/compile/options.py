"""Options of a build, each looked up by name and refused in words where the binding lacks it.

A DLA core as the device of a build is experimental, and never run on hardware. It computes in FP16 at a fixed batch.
What it cannot do moves to the GPU without a word, so a figure belongs to the DLA only if the layer report says so. It
takes no Q/DQ graph: its INT8 is TensorRT's implicit quantization, which is gone from TensorRT 11 on.

Measured kernel times are kept between builds in $XDG_CACHE_HOME/edgeres/timing, usually ~/.cache/edgeres/timing: one
file for each binding, version and GPU, which can be deleted at any time. TensorRT refuses a file of another version or
GPU; then it begins anew and says so. Of two builds at once the later one's stays.

Source: TensorRT developer guide, "Working with DLA"; NVIDIA/TensorRT issue 2222.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from edgeres.compile.job import BuildError, BuildJob
from edgeres.core.errors import InputError
from edgeres.core.files import written

_MIB = 1 << 20


def set_options(trt: Any, config: Any, job: BuildJob) -> list[str]:
    """Applies all of `job` that is neither precision nor DLA; the names of the flags that were set.

    Raises BuildError for an option this version does not have.
    """
    config.clear_flag(trt.BuilderFlag.TF32)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if job.optimization_level is not None:
        _set(trt, config, "builder_optimization_level", job.optimization_level)
    if job.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, job.workspace_mib * _MIB)
    if job.hardware_compatible is not None:
        levels = getattr(trt, "HardwareCompatibilityLevel", None)
        level = getattr(levels, job.hardware_compatible, None)
        if level is None:
            raise BuildError(f"{who(trt)} has no hardware compatibility {job.hardware_compatible}")
        _set(trt, config, "hardware_compatibility_level", level)
    if job.targets:
        _set_targets(trt, config, job.targets)
    return [set_flag(trt, config, "VERSION_COMPATIBLE")] if job.version_compatible else []


def set_dla(trt: Any, builder: Any, config: Any, job: BuildJob) -> None:
    """Sends the build to `job.dla_core`, if one was asked for.

    Raises BuildError where there is no such core, or the graph's types are none a DLA computes in.
    """
    if job.dla_core is None:
        return
    cores = builder.num_DLA_cores
    if job.dla_core >= cores:
        raise BuildError(
            f"{who(trt)} sees {cores} DLA cores here, core {job.dla_core} was asked for (Jetson Nano, TX2, Orin Nano"
            " and Thor have none; TensorRT after 10.7 has none before 11.4.1)"
        )
    if not is_flag_known(trt, "FP16") and not job.half:
        raise BuildError(f"{who(trt)} takes types from the graph and a DLA computes in FP16: give it a graph in FP16")
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = job.dla_core
    set_flag(trt, config, "GPU_FALLBACK")


def is_flag_known(trt: Any, name: str) -> bool:
    """Whether this version has the BuilderFlag `name`."""
    return hasattr(trt.BuilderFlag, name)


def set_flag(trt: Any, config: Any, name: str) -> str:
    """Sets the BuilderFlag `name` and returns it; raises BuildError if this version does not have it."""
    if not is_flag_known(trt, name):
        raise BuildError(f"{who(trt)} has no builder flag {name}")
    config.set_flag(getattr(trt.BuilderFlag, name))
    return name


def who(trt: Any) -> str:
    """The binding and its version."""
    return f"{trt.__name__} {trt.__version__}"


def _set(trt: Any, config: Any, name: str, value: Any) -> None:
    if not hasattr(config, name):
        raise BuildError(f"{who(trt)} has no {name}")
    setattr(config, name, value)


def _set_targets(trt: Any, config: Any, targets: tuple[str, ...]) -> None:
    if not hasattr(config, "set_compute_capability"):
        raise BuildError(f"{who(trt)} cannot build for {', '.join(targets)}")
    config.num_compute_capabilities = len(targets)
    for index, target in enumerate(targets):
        capability = getattr(trt.ComputeCapability, target.upper(), None)
        if capability is None or not config.set_compute_capability(capability, index):
            raise BuildError(f"{who(trt)} does not build for {target}")


def timing_folder() -> Path:
    """Where the files lie."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "edgeres" / "timing"


class TimingCache:
    """The file of one build, given to `config` when made; nothing at all where the job names no folder."""

    def __init__(self, trt: Any, config: Any, job: BuildJob) -> None:
        self.name: str | None = None
        self._config, self._notes = config, list[str]()
        if job.timing_folder is None or job.gpu is None:
            return
        gpu = re.sub(r"[^A-Za-z0-9]+", "-", job.gpu).strip("-")
        self.name = f"{job.module}-{trt.__version__}-{gpu}.timing"
        self._path = Path(job.timing_folder, self.name)
        stored = self._path.read_bytes() if self._path.is_file() else b""
        if not self._use(stored):
            self._notes.append(f"the timing cache {self.name} does not fit this TensorRT and GPU; begun anew")
            self._use(b"")

    def save(self) -> tuple[str, ...]:
        """Writes what was measured; sentences about what went wrong, which never fails a build."""
        if self.name is not None:
            try:
                with written(self._path) as temporary:
                    temporary.write_bytes(bytes(self._config.get_timing_cache().serialize()))
            except InputError as err:
                self._notes.append(f"kernel times are not kept: {err}")
        return tuple(self._notes)

    def _use(self, stored: bytes) -> bool:
        cache = self._config.create_timing_cache(stored)
        return cache is not None and bool(self._config.set_timing_cache(cache, False))
