"""One builder for TensorRT 8.5 to 11 and TensorRT-RTX, parametrised by the imported binding.

Names come and go between versions and the numbers behind enum names change, so whatever is not in all of them
is looked up by name:

    network     strongly typed where that exists (10, 11, RTX); on 8.x explicit batch, INT8 and FP16 by flag
    DLA         weakly typed up to 10.7, FP16 by flag
    targets     compute capabilities exist in RTX only; TensorRT builds for the GPU it runs on
    progress    from 10.0

TF32 is off, so that an FP32 engine is FP32. 8.5 lacks builder levels and version-compatible engines: asked for, they
are an error. RTX builds are made in the tests; TensorRT itself has been checked name by name only.

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
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgeres.compile.config import BuildError, BuildJob, Built, Tensor
from edgeres.core.errors import InputError
from edgeres.core.files import written

_MIB = 1 << 20


def build(trt: Any, job: BuildJob, logger: Any, on_phase: Callable[[str], None]) -> tuple[bytes, Built]:
    """The serialized engine and its description.

    `trt` is the binding (`tensorrt` or `tensorrt_rtx`), `logger` an ILogger that outlives every call of it,
    `on_phase` is told the name of every outermost build phase that begins.

    Raises:
        BuildError: the graph does not parse, an option is refused, or the build fails.
    """
    builder = trt.Builder(logger)
    strong = _is_strongly_typed(trt, job)
    network = _network(trt, builder, strong=strong)
    _parse(trt, network, job.onnx_path, logger)
    config = builder.create_builder_config()
    flags = [*set_options(trt, config, job), *([] if strong else _set_precision(trt, config, job))]
    set_dla(trt, builder, config, job)
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    _add_profile(builder, config, inputs, job.batch)
    monitor = _progress_monitor(trt, on_phase)
    if monitor is not None:
        config.progress_monitor = monitor
    cache = TimingCache(trt, config, job)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BuildError("the builder returned nothing")
    notes = cache.save()
    return bytes(plan), Built(
        version=trt.__version__,
        inputs=_tensors(inputs),
        outputs=_tensors(outputs),
        strongly_typed=strong,
        flags=tuple(flags),
        timing_cache=cache.name,
        notes=notes,
    )


def _is_strongly_typed(trt: Any, job: BuildJob) -> bool:
    """Wherever that exists, except for a DLA of a version that can still be weakly typed."""
    if not hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        return False
    return job.dla_core is None or not is_flag_known(trt, "FP16")


def _network(trt: Any, builder: Any, *, strong: bool) -> Any:
    flags = trt.NetworkDefinitionCreationFlag
    flag = flags.STRONGLY_TYPED if strong else getattr(flags, "EXPLICIT_BATCH", None)
    return builder.create_network(0 if flag is None else 1 << int(flag))


def _set_precision(trt: Any, config: Any, job: BuildJob) -> list[str]:
    """What a weakly typed network may use besides FP32: what the graph holds, and what a DLA needs."""
    wanted = {"INT8": job.quantized, "FP16": job.half or job.dla_core is not None}
    return [set_flag(trt, config, name) for name, needed in wanted.items() if needed]


def _parse(trt: Any, network: Any, onnx_path: str, logger: Any) -> None:
    parser = trt.OnnxParser(network, logger)
    if parser.parse_from_file(onnx_path):
        return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    if not errors:
        raise BuildError("the parser gave no reason")
    first = errors[0]
    where = f"node {_node_name(first)}: " if _node_name(first) else ""
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    raise BuildError(f"{where}{' '.join(first.desc().split())}{more}")


def _node_name(error: Any) -> str:
    """Name and operator of the node an error is about; not every binding and not every error tells."""
    parts = [getattr(error, name)() for name in ("node_name", "node_operator") if hasattr(error, name)]
    return " ".join(part for part in parts if part)


def _add_profile(builder: Any, config: Any, inputs: list[Any], batch: tuple[int, int, int]) -> None:
    varying = [tensor for tensor in inputs if -1 in tuple(tensor.shape)]
    if not varying:
        return
    profile = builder.create_optimization_profile()
    for tensor in varying:
        rest = tuple(tensor.shape)[1:]
        if -1 in rest:
            raise BuildError(f"input {tensor.name} varies in more than its first dimension: {tuple(tensor.shape)}")
        profile.set_shape(tensor.name, *((size, *rest) for size in batch))
    config.add_optimization_profile(profile)


def _tensors(tensors: list[Any]) -> dict[str, Tensor]:
    return {tensor.name: Tensor(shape=tuple(tensor.shape), dtype=tensor.dtype.name) for tensor in tensors}


def _progress_monitor(trt: Any, on_phase: Callable[[str], None]) -> Any:
    """A monitor that reports phases by name, or None where the binding has none (before 10.0)."""
    if not hasattr(trt, "IProgressMonitor"):
        return None

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if not parent_phase:
                on_phase(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return True

        def phase_finish(self, phase_name: str) -> None:
            pass

    return Monitor()


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
