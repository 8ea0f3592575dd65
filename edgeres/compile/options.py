"""Options of a build, each looked up by name and refused in words where the binding lacks it."""

from __future__ import annotations

from typing import Any

from edgeres.compile.job import BuildError, BuildJob

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
