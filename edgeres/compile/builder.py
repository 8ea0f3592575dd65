"""One builder for TensorRT 8.6 to 11 and TensorRT-RTX, parametrised by the imported binding.

Names come and go between versions and the numbers behind enum names change, so whatever is not in all of them
is looked up by name:

    network     strongly typed where that exists (10, 11, RTX); on 8.x explicit batch, INT8 on for Q/DQ graphs
    targets     compute capabilities exist in RTX only; TensorRT builds for the GPU it runs on
    progress    from 10.0

TF32 is off, so that an FP32 engine is FP32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgeres.core.config import Record

_MIB = 1 << 20


class BuildError(Exception):
    """The binding refused the graph or the options; one line."""


class BuildJob(Record):
    """What to build; paths are absolute. `batch` is (min, opt, max) where the first dimension varies."""

    module: str
    onnx_path: str
    plan_path: str
    quantized: bool
    targets: tuple[str, ...] = ()
    batch: tuple[int, int, int]
    optimization_level: int | None = None
    workspace_mib: int | None = None


class Built(Record):
    """What came out besides the plan: shapes of inputs and outputs (-1 where they vary)."""

    version: str
    inputs: dict[str, tuple[int, ...]]
    outputs: dict[str, tuple[int, ...]]


def build(trt: Any, job: BuildJob, logger: Any, on_phase: Callable[[str], None]) -> tuple[bytes, Built]:
    """The serialized engine and its description.

    `trt` is the binding (`tensorrt` or `tensorrt_rtx`), `logger` an ILogger that outlives every call of it,
    `on_phase` is told the name of every outermost build phase that begins.

    Raises:
        BuildError: the graph does not parse, an option is refused, or the build fails.
    """
    builder = trt.Builder(logger)
    network = _network(trt, builder)
    _parse(trt, network, job.onnx_path, logger)
    config = builder.create_builder_config()
    _set_options(trt, config, job)
    if not hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED") and job.quantized:
        config.set_flag(trt.BuilderFlag.INT8)
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    _add_profile(builder, config, inputs, job.batch)
    monitor = _progress_monitor(trt, on_phase)
    if monitor is not None:
        config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BuildError("the builder returned nothing")
    return bytes(plan), Built(version=trt.__version__, inputs=_shapes(inputs), outputs=_shapes(outputs))


def _network(trt: Any, builder: Any) -> Any:
    flags = trt.NetworkDefinitionCreationFlag
    strong = getattr(flags, "STRONGLY_TYPED", None)
    flag = strong if strong is not None else flags.EXPLICIT_BATCH
    return builder.create_network(1 << int(flag))


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


def _set_options(trt: Any, config: Any, job: BuildJob) -> None:
    config.clear_flag(trt.BuilderFlag.TF32)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if job.optimization_level is not None:
        config.builder_optimization_level = job.optimization_level
    if job.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, job.workspace_mib * _MIB)
    if job.targets:
        _set_targets(trt, config, job.targets)


def _set_targets(trt: Any, config: Any, targets: tuple[str, ...]) -> None:
    if not hasattr(config, "set_compute_capability"):
        raise BuildError(f"{trt.__name__} {trt.__version__} cannot build for {', '.join(targets)}")
    config.num_compute_capabilities = len(targets)
    for index, target in enumerate(targets):
        capability = getattr(trt.ComputeCapability, target.upper(), None)
        if capability is None or not config.set_compute_capability(capability, index):
            raise BuildError(f"{trt.__name__} {trt.__version__} does not build for {target}")


def _add_profile(builder: Any, config: Any, inputs: list[Any], batch: tuple[int, int, int]) -> None:
    varying = [tensor for tensor in inputs if -1 in tuple(tensor.shape)]
    if not varying:
        return
    profile = builder.create_optimization_profile()
    for tensor in varying:
        rest = tuple(tensor.shape)[1:]
        profile.set_shape(tensor.name, *((size, *rest) for size in batch))
    config.add_optimization_profile(profile)


def _shapes(tensors: list[Any]) -> dict[str, tuple[int, ...]]:
    return {tensor.name: tuple(tensor.shape) for tensor in tensors}


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
