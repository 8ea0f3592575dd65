"""One builder for TensorRT 8.5 to 11 and TensorRT-RTX, parametrised by the imported binding.

Names come and go between versions and the numbers behind enum names change, so whatever is not in all of them
is looked up by name:

    network     strongly typed where that exists (10, 11, RTX); on 8.x explicit batch, INT8 and FP16 by flag
    DLA         weakly typed up to 10.7, FP16 by flag (`edgeres.compile.options`)
    targets     compute capabilities exist in RTX only; TensorRT builds for the GPU it runs on
    progress    from 10.0

TF32 is off, so that an FP32 engine is FP32. 8.5 lacks builder levels and version-compatible engines: asked for, they
are an error. RTX builds are made in the tests; TensorRT itself has been checked name by name only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgeres.compile.job import BuildError, BuildJob, Built, Tensor
from edgeres.compile.options import TimingCache, is_flag_known, set_dla, set_flag, set_options


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
