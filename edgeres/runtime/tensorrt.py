"""Engines on this machine's GPU, by the bindings of TensorRT (8.5 and later) or TensorRT-RTX: the names are the same.

Memory, stream and CUDA graph come from the driver (`edgeres.runtime.cuda`), so neither torch nor the CUDA toolkit is
needed. What an engine reads and writes in FP16 is converted; the runner gives and takes float32.

Tested with a fake TensorRT that executes the graph with ONNX Runtime, and a fake driver; never run on hardware so far.
"""

from __future__ import annotations

import functools
import importlib
from collections import deque
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike
from typing_extensions import Self

from edgeres.core.artifacts import Engine
from edgeres.core.errors import DeviceError, InputError
from edgeres.runtime.cuda import Buffer, Captured, Cuda
from edgeres.runtime.manifest import manifest_of, plan_header
from edgeres.runtime.runner import Images, Logits, RunnerOptions, fed

_TYPES: dict[str, DTypeLike] = {"FLOAT": np.float32, "HALF": np.float16}
_MOST_MESSAGES = 20
_WITHOUT_GRAPH = " without CUDA graph"

Shape = tuple[int, ...]


class Port(NamedTuple):
    """The engine's input or output; `shape` without the first dimension, `batch` the sizes that takes: (min, max)."""

    name: str
    dtype: np.dtype[Any]
    shape: Shape
    batch: tuple[int, int]

    def size_bytes(self, images: int) -> int:
        """Of so many images."""
        return images * int(np.prod(self.shape)) * self.dtype.itemsize


class TensorRtRunner:
    """One execution context on one stream; timed steps are launches of a CUDA graph where one can be captured.

    `name` says so where it cannot. An engine of a dynamic graph takes any number of images: more than its largest batch
    are cut, fewer than its smallest are filled up.
    """

    def __init__(self, engine: Engine, options: RunnerOptions) -> None:
        del options  # threads and the reading of Q/DQ nodes are settled in an engine
        self._engine_file, self._manifest = engine, manifest_of(engine)
        runtime = plan_header(engine.path).runtime
        self._trt = _binding(runtime)
        self.name = f"{runtime} {self._trt.__version__}"
        fixed = next(iter(self._manifest.inputs.values()), (-1,))[0]
        self.batch: int | None = None if fixed < 0 else fixed

    def __enter__(self) -> Self:
        """Loads the engine; raises DeviceError with TensorRT's words where that fails."""
        self._cuda = Cuda()
        self._graph: Captured | None = None
        self._buffers: list[Buffer] = []
        self._capacity = self._bound = 0
        try:
            self._load_engine()
        except BaseException:
            self._cuda.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        """Frees the engine, then its memory and the stream."""
        del self._context, self._engine, self._runtime
        self._forget_graph()
        self._free_buffers()
        self._cuda.close()

    def infer(self, images: Images) -> Logits:
        """float32 (N, C, H, W) to float32 (N, K); raises InputError for other shapes than the engine's."""
        images = fed(images, (0, *self._input.shape))
        self._check(images)
        most = self._input.batch[1]
        return np.concatenate([self._infer(images[at : at + most]) for at in range(0, len(images), most)])

    def load(self, images: Images) -> None:
        """Brings the input to the GPU, runs once and captures a CUDA graph.

        Raises InputError if the engine does not take that many images at once.
        """
        images = fed(images, (0, *self._input.shape))
        self._check(images)
        low, high = self._input.batch
        if not low <= len(images) <= high:
            raise InputError(
                f"{self._engine_file.path} takes {low} to {high} images at once, {len(images)} were asked for:"
                f" --batch {high}, or compile with --batch-max {len(images)}"
            )
        self._bind(len(images))
        self._upload(images)
        self._enqueue()
        self._cuda.synchronize()
        self._graph = self._captured()
        self.name = self.name.removesuffix(_WITHOUT_GRAPH) + ("" if self._graph else _WITHOUT_GRAPH)

    def step(self) -> None:
        """Begins one call on the loaded input."""
        if self._graph is not None:
            self._cuda.launch(self._graph)
        else:
            self._enqueue()

    def synchronize(self) -> None:
        """Waits for the GPU."""
        self._cuda.synchronize()

    def _load_engine(self) -> None:
        logger = _logger(self._trt)
        self._runtime = self._trt.Runtime(logger)
        if self._manifest.version_compatible:  # such a plan carries a runtime of its own, code that is executed
            self._runtime.engine_host_code_allowed = True
        self._engine = self._runtime.deserialize_cuda_engine(self._engine_file.path.read_bytes())
        self._context: Any = self._engine.create_execution_context() if self._engine is not None else None
        if self._context is None:
            said = "; ".join(list(logger.messages)[-2:]) or "it gives no reason"
            raise DeviceError(f"{self._engine_file.path}: {self.name} cannot load it here: {said}")
        self._input, self._output = _ports(self._engine, str(self._engine_file.path))

    def _infer(self, images: Images) -> Logits:
        count = max(len(images), self._input.batch[0])
        self._bind(count)
        self._upload(images)
        self._enqueue()
        logits, size = self._buffers[1], self._output.size_bytes(count)
        self._cuda.download(logits, size)
        self._cuda.synchronize()
        values = logits.host[:size].view(self._output.dtype).reshape(count, *self._output.shape)
        return values[: len(images)].reshape(len(images), -1).astype(np.float32)

    def _check(self, images: Images) -> None:
        if images.shape[1:] != self._input.shape or not len(images):
            raise InputError(f"{self._engine_file.path} reads images {self._input.shape}, given were {images.shape}")

    def _bind(self, count: int) -> None:
        """Memory for `count` images, known to the context."""
        if count == self._bound:
            return
        self._forget_graph()
        if count > self._capacity:
            self._free_buffers()
            for port in (self._input, self._output):
                self._buffers.append(self._cuda.allocate(port.size_bytes(count)))
            self._capacity = count
        shape = (count, *self._input.shape)
        if not self._context.set_input_shape(self._input.name, shape):
            raise InputError(f"{self._engine_file.path} does not take images of {shape}{self._said()}")
        for port, buffer in zip((self._input, self._output), self._buffers, strict=True):
            self._context.set_tensor_address(port.name, buffer.address)
        self._bound = count

    def _upload(self, images: Images) -> None:
        size = self._input.size_bytes(self._bound)
        place = self._buffers[0].host[:size].view(self._input.dtype).reshape(self._bound, *self._input.shape)
        place[: len(images)] = images
        place[len(images) :] = 0
        self._cuda.upload(self._buffers[0], size)

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._cuda.stream):
            raise DeviceError(f"{self._engine_file.path}: {self.name} failed to run{self._said()}")

    def _captured(self) -> Captured | None:
        """The call as a CUDA graph; None where the engine has parts that cannot be captured, such as a DLA's."""
        is_capturable = getattr(self._context, "is_stream_capturable", None)  # TensorRT-RTX has it
        if is_capturable is not None and not is_capturable(self._cuda.stream):
            return None
        return self._cuda.capture(lambda: bool(self._context.execute_async_v3(self._cuda.stream)))

    def _free_buffers(self) -> None:
        self._capacity = self._bound = 0
        while self._buffers:
            self._cuda.free(self._buffers.pop())

    def _forget_graph(self) -> None:
        if self._graph is not None:
            self._cuda.forget(self._graph)
        self._graph = None

    def _said(self) -> str:
        return "".join(f": {message}" for message in list(_logger(self._trt).messages)[-1:])


def _binding(runtime: str) -> Any:
    """The Python module of `runtime`; raises DeviceError if it is there and cannot be loaded."""
    module = runtime.replace("-", "_")
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as err:
        reason = " ".join(str(err).split())
        raise DeviceError(f"{module} cannot be imported here: {reason}") from err


@functools.lru_cache(maxsize=2)
def _logger(trt: Any) -> Any:
    """The one logger of a binding: TensorRT keeps the first it is given without owning it, so it stays for good."""
    return logger_of(trt, trt.ILogger.Severity.ERROR, most=_MOST_MESSAGES)


def logger_of(trt: Any, least: Any, most: int | None = None) -> Any:
    """Keeps what is said of severity `least` and worse, the last `most` of it, in `messages`; to be kept alive."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages: deque[str] = deque(maxlen=most)

        def log(self, severity: Any, msg: str) -> None:
            if severity <= least:
                self.messages.append(" ".join(msg.split()))

    return Logger()


def _ports(engine: Any, where: str) -> tuple[Port, Port]:
    """Input and output; raises InputError unless there is one of each, in float."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name).name == "INPUT"]
    outputs = [name for name in names if name not in inputs]
    if len(inputs) != 1 or len(outputs) != 1:
        raise InputError(f"{where} has {len(inputs)} inputs and {len(outputs)} outputs; edgeres runs one of each")
    first, *_ = engine.get_tensor_shape(inputs[0])
    batch = (first, first)
    if first < 0:
        (smallest, *_), _, (largest, *_) = engine.get_tensor_profile_shape(inputs[0], 0)
        batch = (smallest, largest)
    return _port(engine, inputs[0], batch, where), _port(engine, outputs[0], batch, where)


def _port(engine: Any, name: str, batch: tuple[int, int], where: str) -> Port:
    kind = engine.get_tensor_dtype(name).name
    if kind not in _TYPES:
        raise InputError(f"{where}: {name} is {kind}; edgeres feeds and reads FLOAT or HALF")
    return Port(name, np.dtype(_TYPES[kind]), tuple(engine.get_tensor_shape(name))[1:], batch)
