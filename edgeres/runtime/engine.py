"""An engine through TensorRT's own binding: one image input, its outputs, memory for all and one stream.

The binding of TensorRT 8.5 and later, and of TensorRT-RTX, goes by the names of tensors (execute_async_v3), that of 8.0
to 8.4 by numbers (execute_async_v2); which one it is, is asked of the objects, not of the version.

Python 3.6 and the standard library: the agent takes it to the board, whose Python may lack NumPy. Tested with fake
bindings that execute with ONNX Runtime; never run on hardware so far.
"""

import functools
from collections import deque
from typing import Any, NamedTuple

from edgeres.runtime.cuda import Buffer, Cuda

BYTES = {"FLOAT": 4, "HALF": 2}  # TensorRT's names of what can be fed and read
_MOST_MESSAGES = 20
_SAID = 2


class EngineError(Exception):
    """TensorRT refused something; it says what, in its own words."""


class UnfitEngine(Exception):
    """The engine takes or gives something that edgeres does not feed or read, or not so many images."""


class Port(NamedTuple):
    """The input or output; `shape` without the first length, which may be the least to the most of `batch`."""

    name: "str"
    kind: "str"
    shape: "tuple[int, ...]"
    batch: "tuple[int, int]"

    def size_bytes(self, images: "int") -> "int":
        """Of so many images."""
        return functools.reduce(int.__mul__, self.shape, images * BYTES[self.kind])


class _ByName:
    """Tensors of TensorRT 8.5 and later."""

    def __init__(self, engine: "Any", context: "Any") -> "None":
        self._engine, self.context = engine, context
        self.names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self.shape = engine.get_tensor_shape
        self.kind = engine.get_tensor_dtype
        self.choose = context.set_input_shape

    def is_input(self, name: "str") -> "bool":
        return str(self._engine.get_tensor_mode(name).name) == "INPUT"

    def profile(self, name: "str") -> "Any":
        return self._engine.get_tensor_profile_shape(name, 0)

    def bind(self, addresses: "dict[str, int]") -> "None":
        for name, address in addresses.items():
            self.context.set_tensor_address(name, address)

    def enqueue(self, stream: "int") -> "bool":
        return bool(self.context.execute_async_v3(stream))


class _ByNumber:
    """Tensors of TensorRT 8.0 to 8.4."""

    def __init__(self, engine: "Any", context: "Any") -> "None":
        self._engine, self.context = engine, context
        self.names = [engine.get_binding_name(number) for number in range(engine.num_bindings)]
        self._bindings: list[int] = []

    def is_input(self, name: "str") -> "bool":
        return bool(self._engine.binding_is_input(self.names.index(name)))

    def shape(self, name: "str") -> "Any":
        return self._engine.get_binding_shape(self.names.index(name))

    def kind(self, name: "str") -> "Any":
        return self._engine.get_binding_dtype(self.names.index(name))

    def profile(self, name: "str") -> "Any":
        return self._engine.get_profile_shape(0, self.names.index(name))

    def choose(self, name: "str", shape: "tuple[int, ...]") -> "bool":
        return bool(self.context.set_binding_shape(self.names.index(name), shape))

    def bind(self, addresses: "dict[str, int]") -> "None":
        self._bindings = [addresses[name] for name in self.names]

    def enqueue(self, stream: "int") -> "bool":
        return bool(self.context.execute_async_v2(self._bindings, stream))


class LoadedEngine:
    """One execution context of the engine in `plan`; `close` frees it with its memory and stream.

    `has_code`: the plan carries a runtime of its own, code that is executed. Raises EngineError if TensorRT cannot load
    it, UnfitEngine if it has not one input, and outputs in float alone, CudaError without a GPU.
    """

    def __init__(self, trt: "Any", plan: "bytes", has_code: "bool" = False) -> "None":
        self.cuda, self._said = Cuda(), logger_for(trt).messages
        self.buffers: list[Buffer] = []
        self.bound = self._capacity = 0
        self._runtime: Any = None
        self._engine: Any = None
        self._tensors: Any = None
        try:
            self._load(trt, plan, has_code)
            self.input, self.outputs = self._ports()
        except BaseException:
            self.close()
            raise

    @property
    def context(self) -> "Any":
        """TensorRT's own."""
        return self._tensors.context

    def close(self) -> "None":
        """In this order: TensorRT crashes where an engine outlives its runtime."""
        self._tensors = None
        self._engine = None
        self._runtime = None
        self._free()
        self.cuda.close()

    def bind(self, count: "int") -> "None":
        """Memory for `count` images, known to the context; raises UnfitEngine if it does not take so many at once."""
        low, high = self.input.batch
        if not low <= count <= high:
            takes = f"{low}" if low == high else f"{low} to {high}"
            todo = f"--batch {high}, or compile with --batch-max {count}"
            raise UnfitEngine(f"takes {takes} images at once, not {count}: {todo}")
        if count == self.bound:
            return
        if count > self._capacity:
            self._free()
            for port in (self.input, *self.outputs):
                self.buffers.append(self.cuda.allocate(port.size_bytes(count)))
            self._capacity = count
        if not self._tensors.choose(self.input.name, (count,) + self.input.shape):  # noqa: RUF005 - Python 3.6
            raise UnfitEngine(f"does not take {count} images of {self.input.shape}: {self._words()}")
        names = [port.name for port in (self.input, *self.outputs)]
        self._tensors.bind({name: one.address for name, one in zip(names, self.buffers)})  # noqa: B905
        self.bound = count

    def upload(self) -> "None":
        """Begins to copy the input from `buffers[0]`."""
        self.cuda.upload(self.buffers[0], self.input.size_bytes(self.bound))

    def enqueue(self) -> "bool":
        """Begins to compute; False if TensorRT refuses."""
        return bool(self._tensors.enqueue(self.cuda.stream))

    def start(self) -> "None":
        """The same; raises EngineError."""
        if not self.enqueue():
            raise EngineError(f"failed to run: {self._words()}")

    def run(self) -> "None":
        """From `buffers[0]` to the others, one an output."""
        self.upload()
        self.start()
        for port, buffer in zip(self.outputs, self.buffers[1:]):  # noqa: B905 - Python 3.6
            self.cuda.download(buffer, port.size_bytes(self.bound))
        self.cuda.synchronize()

    def _load(self, trt: "Any", plan: "bytes", has_code: "bool") -> "None":
        self._runtime = trt.Runtime(logger_for(trt))
        if has_code:
            self._runtime.engine_host_code_allowed = True
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        context = self._engine.create_execution_context() if self._engine is not None else None
        if context is None:
            raise EngineError(f"cannot load it: {self._words()}")
        kind = _ByName if hasattr(context, "execute_async_v3") else _ByNumber
        self._tensors = kind(self._engine, context)

    def _ports(self) -> "tuple[Port, list[Port]]":
        inputs = [name for name in self._tensors.names if self._tensors.is_input(name)]
        outputs = [name for name in self._tensors.names if name not in inputs]
        if len(inputs) != 1 or not outputs:
            raise UnfitEngine(f"has {len(inputs)} inputs and {len(outputs)} outputs; edgeres feeds one input")
        first = self._tensors.shape(inputs[0])[0]
        batch = (first, first)
        if first < 0:
            smallest, _, largest = self._tensors.profile(inputs[0])
            batch = (smallest[0], largest[0])
        return self._port(inputs[0], batch), [self._port(name, batch) for name in outputs]

    def _port(self, name: "str", batch: "tuple[int, int]") -> "Port":
        kind = str(self._tensors.kind(name).name)
        if kind not in BYTES:
            raise UnfitEngine(f"has {name} in {kind}; edgeres feeds and reads FLOAT or HALF")
        return Port(name, kind, tuple(self._tensors.shape(name))[1:], batch)

    def _free(self) -> "None":
        self._capacity = self.bound = 0
        while self.buffers:
            self.cuda.free(self.buffers.pop())

    def _words(self) -> "str":
        return "; ".join(list(self._said)[-_SAID:]) or "it gives no reason"


@functools.lru_cache(maxsize=2)
def logger_for(trt: "Any") -> "Any":
    """The one logger of a binding: TensorRT keeps the first it is given without owning it, so it stays for good."""
    return logger_of(trt, trt.ILogger.Severity.ERROR, _MOST_MESSAGES)


def logger_of(trt: "Any", least: "Any", most: "int | None" = None) -> "Any":
    """Keeps what is said of severity `least` and worse, the last `most` of it, in `messages`; to be kept alive."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> "None":
            trt.ILogger.__init__(self)
            self.messages: deque[str] = deque(maxlen=most)

        def log(self, severity: "Any", msg: "str") -> "None":
            if int(severity) <= int(least):
                self.messages.append(" ".join(msg.split()))

    return Logger()
