"""A fake CUDA driver that really copies memory, and a fake TensorRT that executes its graph with ONNX Runtime.

A fake plan is a plan's header with the ONNX file behind it. Work waits until the stream is synchronised, as on a GPU;
the fake binding has the names of one real version and nothing else.
"""

# ruff: noqa: N802, N815 (the driver's and TensorRT's own names)
from __future__ import annotations

import ctypes
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime

HEADER_BYTES = 64
INVALID = 1  # CUDA_ERROR_INVALID_VALUE
MEMORY = 2  # CUDA_ERROR_OUT_OF_MEMORY
_API = Path(__file__).parents[1] / "compile" / "data" / "api_names.txt"


def names_of(version: str) -> dict[str, set[str]]:
    """Class -> names that the real bindings of `version` have."""
    found: dict[str, set[str]] = {}
    section, column = "", 0
    for line in _API.read_text().splitlines():
        if line.startswith("columns"):
            column = line.split()[1:].index(version)
        elif line.startswith("## "):
            section = line.removeprefix("## ")
        elif not line.startswith("#"):
            name, marks = line.split()
            if marks[column] == "Y":
                found.setdefault(section, set()).add(name)
    return found


class Driver:
    """`alive` holds everything that was made and not given back; `fails` maps a call to the error it returns."""

    def __init__(self, *, capturable: bool = True) -> None:
        self.alive: dict[object, object] = {}
        self.queue: list[object] = []
        self.captured: list[object] | None = None
        self.capturable = capturable
        self.fails: dict[str, int] = {}
        self.launches = 0

    def enqueue(self, work: object) -> None:
        (self.queue if self.captured is None else self.captured).append(work)

    def cuInit(self, flags: object) -> int:
        return self.fails.get("cuInit", 0)

    def cuDeviceGet(self, device: object, ordinal: object) -> int:
        return 0

    def cuDevicePrimaryCtxRetain(self, context: object, device: object) -> int:
        context._obj.value = 7
        self.alive["context"] = True
        return 0

    def cuCtxSetCurrent(self, context: object) -> int:
        return 0 if context.value == 7 else INVALID

    def cuStreamCreate(self, stream: object, flags: object) -> int:
        stream._obj.value = 11
        self.alive["stream"] = True
        return 0

    def cuMemAlloc_v2(self, address: object, size: object) -> int:
        if code := self.fails.get("cuMemAlloc_v2", 0):
            return code
        address._obj.value = self._memory("device", size.value)
        return 0

    def cuMemAllocHost_v2(self, address: object, size: object) -> int:
        address._obj.value = self._memory("host", size.value)
        return 0

    def _memory(self, side: str, size: int) -> int:
        block = ctypes.create_string_buffer(b"\xff" * size, size)
        self.alive[side, ctypes.addressof(block)] = block
        return ctypes.addressof(block)

    def cuMemFree_v2(self, address: object) -> int:
        return 0 if self.alive.pop(("device", address.value), None) is not None else INVALID

    def cuMemFreeHost(self, address: object) -> int:
        return 0 if self.alive.pop(("host", address.value), None) is not None else INVALID

    def cuMemcpyHtoDAsync_v2(self, to: object, source: object, size: object, stream: object) -> int:
        return self._copy(("device", to.value), ("host", source.value), size.value)

    def cuMemcpyDtoHAsync_v2(self, to: object, source: object, size: object, stream: object) -> int:
        return self._copy(("host", to.value), ("device", source.value), size.value)

    def _copy(self, to: tuple[str, int], source: tuple[str, int], size: int) -> int:
        if to not in self.alive or source not in self.alive:
            return INVALID
        if size > min(len(self.alive[to]), len(self.alive[source])):
            return INVALID
        self.enqueue(lambda: ctypes.memmove(to[1], source[1], size))
        return 0

    def cuStreamSynchronize(self, stream: object) -> int:
        assert self.captured is None, "a stream that is being captured cannot be waited for"
        for work in self.queue:
            work()
        self.queue.clear()
        return 0

    def cuStreamBeginCapture_v2(self, stream: object, mode: object) -> int:
        self.captured = []
        return 0

    def cuStreamEndCapture(self, stream: object, graph: object) -> int:
        work, self.captured = self.captured, None
        if not self.capturable:
            return INVALID
        graph._obj.value = self._graph(work)
        return 0

    def _graph(self, work: object) -> int:
        handle = 100 + len(self.alive)
        self.alive["graph", handle] = work
        return handle

    def cuGraphInstantiateWithFlags(self, executable: object, graph: object, flags: object) -> int:
        executable._obj.value = self._graph(self.alive["graph", graph.value])
        return 0

    def cuGraphDestroy(self, graph: object) -> int:
        return 0 if self.alive.pop(("graph", graph.value), None) is not None else INVALID

    cuGraphExecDestroy = cuGraphDestroy

    def cuGraphLaunch(self, graph: object, stream: object) -> int:
        self.launches += 1
        self.queue += self.alive["graph", graph.value]
        return 0

    def cuStreamDestroy_v2(self, stream: object) -> int:
        return 0 if self.alive.pop("stream", None) else INVALID

    def cuDevicePrimaryCtxRelease_v2(self, device: object) -> int:
        return 0 if self.alive.pop("context", None) else INVALID

    def cuGetErrorString(self, code: object, text: object) -> int:
        text._obj.value = {INVALID: b"invalid argument", MEMORY: b"out of memory"}.get(code.value)
        return 0


class Strict:
    """Shows and takes only the names that the version has."""

    def __init__(self, names: set[str], **values: object) -> None:
        self.__dict__.update(_names=names, _values=values)

    def __getattr__(self, name: str) -> object:
        if name not in self._names or name not in self._values:
            raise AttributeError(name)
        return self._values[name]

    def __setattr__(self, name: str, value: object) -> None:
        if name not in self._names:
            raise AttributeError(name)
        self._values[name] = value


class Logger:
    """What `trt.ILogger` is to a subclass."""

    Severity = SimpleNamespace(ERROR=1, WARNING=2)


class Binding:
    """A fake `tensorrt` of one version, executing on the memory of `driver`.

    `half`: its engines read and write FP16. `profile`: (min, opt, max) images of a dynamic graph. Its outputs stand in
    another order than the file's.
    """

    ILogger = Logger
    __spec__ = ModuleSpec("tensorrt", None)  # torch asks whether there is one

    def __init__(
        self, version: str, driver: Driver, *, half: bool = False, profile: tuple[int, int, int] = (1, 2, 4)
    ) -> None:
        self.__version__, self._driver = version, driver
        self._names, self._half, self._profile = names_of(version), half, profile
        self.host_code: list[object] = []

    def Runtime(self, logger: object) -> Strict:
        def deserialize(plan: bytes) -> Strict | None:
            self.host_code.append(runtime._values.get("engine_host_code_allowed", False))
            return self._engine(plan, logger)

        runtime = Strict(self._names["Runtime"], deserialize_cuda_engine=deserialize)
        return runtime

    def _engine(self, plan: bytes, logger: object) -> Strict | None:
        try:
            model = onnx.load_from_string(plan[HEADER_BYTES:])
        except Exception:
            logger.log(Logger.Severity.ERROR, "IRuntime::deserializeCudaEngine: Error Code 1:\nserialization failed")
            return None
        ports = {value.name: value for value in (model.graph.input[0], *reversed(model.graph.output))}
        names = list(ports)

        def shape(name: str) -> tuple[int, ...]:
            dims = ports[name].type.tensor_type.shape.dim
            return tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in dims)

        kind = SimpleNamespace(name="HALF" if self._half else "FLOAT")
        rest = shape(names[0])[1:]
        return Strict(
            self._names["ICudaEngine"],
            num_io_tensors=len(names),
            get_tensor_name=names.__getitem__,
            get_tensor_mode=lambda name: SimpleNamespace(name="INPUT" if name == names[0] else "OUTPUT"),
            get_tensor_shape=shape,
            get_tensor_dtype=lambda name: kind,
            get_tensor_profile_shape=lambda name, index: [(size, *rest) for size in self._profile],
            create_execution_context=lambda: self._context(model, shape(names[0]), names),
        )

    def _context(self, model: onnx.ModelProto, shape: tuple[int, ...], names: list[str]) -> Strict:
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        dtype, bound, addresses = np.float16 if self._half else np.float32, {}, {}

        def set_input_shape(name: str, wanted: tuple[int, ...]) -> bool:
            is_inside = self._profile[0] <= wanted[0] <= self._profile[2] if shape[0] < 0 else wanted[0] == shape[0]
            if name != names[0] or not is_inside or wanted[1:] != shape[1:]:
                return False
            bound["shape"] = wanted
            return True

        def run() -> None:
            size = int(np.prod(bound["shape"])) * np.dtype(dtype).itemsize
            images = np.frombuffer(ctypes.string_at(addresses[names[0]], size), dtype).reshape(bound["shape"])
            for name, found in zip(
                names[1:], session.run(names[1:], {names[0]: images.astype(np.float32)}), strict=True
            ):
                ctypes.memmove(addresses[name], found.astype(dtype).tobytes(), found.astype(dtype).nbytes)

        def execute(stream: int) -> bool:
            if set(addresses) != set(names) or "shape" not in bound or stream != 11:
                return False
            self._driver.enqueue(run)
            return True

        return Strict(
            self._names["IExecutionContext"],
            set_input_shape=set_input_shape,
            set_tensor_address=lambda name, address: addresses.update({name: address}) is None,
            execute_async_v3=execute,
            is_stream_capturable=lambda stream: self._driver.capturable,
        )
