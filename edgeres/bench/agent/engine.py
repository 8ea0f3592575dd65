"""An engine run through the board's own `tensorrt` binding: float32 images in, float32 logits out.

The binding of TensorRT 8.5 and newer goes by the names of tensors (execute_async_v3), that of 8.0 to 8.4 by numbers
(execute_async_v2); which one it is, is asked of the objects, not of the version. The system's Python may lack NumPy:
memory is ctypes arrays.
"""

import contextlib
import ctypes
import importlib
from pathlib import Path
from typing import Any, Iterator  # noqa: UP035 - Python 3.6

from .cuda import Cuda
from .images import FLOAT_BYTES
from .process import Refused

_MOST_MESSAGES = 3


class _ByName:
    """Inputs and outputs of TensorRT 8.5 and newer."""

    def __init__(self, trt: "Any", engine: "Any", context: "Any") -> "None":
        self._trt, self._engine, self._context = trt, engine, context

    def names(self, is_input: "bool") -> "list[str]":
        """Names of the inputs, or of the outputs."""
        mode = self._trt.TensorIOMode.INPUT if is_input else self._trt.TensorIOMode.OUTPUT
        every = map(self._engine.get_tensor_name, range(self._engine.num_io_tensors))
        return [name for name in every if self._engine.get_tensor_mode(name) == mode]

    def shape(self, name: "str") -> "list[int]":
        """-1 where a length is chosen later."""
        return list(self._engine.get_tensor_shape(name))

    def chosen_shape(self, name: "str") -> "list[int]":
        """After `choose`."""
        return list(self._context.get_tensor_shape(name))

    def type_of(self, name: "str") -> "Any":
        """Its trt.DataType."""
        return self._engine.get_tensor_dtype(name)

    def largest(self, name: "str") -> "list[int]":
        """The largest shape in the first optimization profile."""
        return list(self._engine.get_tensor_profile_shape(name, 0)[2])

    def choose(self, name: "str", shape: "list[int]") -> "bool":
        """Sets the shape of an input."""
        return bool(self._context.set_input_shape(name, tuple(shape)))

    def enqueue(self, addresses: "dict[str, int]", stream: "int") -> "bool":
        """Starts the computation."""
        are_set = [self._context.set_tensor_address(name, address) for name, address in addresses.items()]
        return all(are_set) and bool(self._context.execute_async_v3(stream))


class _ByNumber:
    """Inputs and outputs of TensorRT 8.0 to 8.4; as `_ByName`."""

    def __init__(self, trt: "Any", engine: "Any", context: "Any") -> "None":
        self._engine, self._context = engine, context
        self._numbers = {engine.get_binding_name(number): number for number in range(engine.num_bindings)}

    def names(self, is_input: "bool") -> "list[str]":
        return [name for name, number in self._numbers.items() if self._engine.binding_is_input(number) == is_input]

    def shape(self, name: "str") -> "list[int]":
        return list(self._engine.get_binding_shape(self._numbers[name]))

    def chosen_shape(self, name: "str") -> "list[int]":
        return list(self._context.get_binding_shape(self._numbers[name]))

    def type_of(self, name: "str") -> "Any":
        return self._engine.get_binding_dtype(self._numbers[name])

    def largest(self, name: "str") -> "list[int]":
        return list(self._engine.get_profile_shape(0, self._numbers[name])[2])

    def choose(self, name: "str", shape: "list[int]") -> "bool":
        return bool(self._context.set_binding_shape(self._numbers[name], tuple(shape)))

    def enqueue(self, addresses: "dict[str, int]", stream: "int") -> "bool":
        bindings = [addresses[name] for name in sorted(self._numbers, key=self._numbers.__getitem__)]
        return bool(self._context.execute_async_v2(bindings, stream))


class Engine:
    """A loaded engine with one image input (B, C, H, W) and one output (B, K); B is `batch` from now on."""

    def __init__(self, path: "str", batch: "int", stack: "contextlib.ExitStack") -> "None":
        self._trt, self._said = _binding(), []  # type: Any, list[str]
        self._logger = _logger_into(self._trt, self._said)
        self._ports = self._engine = self._runtime = None  # type: Any
        stack.callback(self._release)
        self._engine = self._loaded(path)
        self._ports = self._ports_of(self._engine)
        self.version = str(self._trt.__version__)
        self.input, self.output = self._only(True), self._only(False)
        self.batch = batch
        self.image_shape = tuple(self._choose(batch)[1:])
        self.classes = self._classes()
        self._prepare(stack)

    def infer(self, images: "bytes") -> "bytes":
        """float32 (B, C, H, W) to float32 (B, K); raises Refused with TensorRT's words if it fails."""
        ctypes.memmove(self._host_in, images, len(self._host_in))
        self._cuda.upload(self._addresses[self.input], self._host_in, self._stream)
        if not self._ports.enqueue(self._addresses, self._stream):
            raise Refused(f"TensorRT could not run the engine: {self._words()}")
        self._cuda.download(self._host_out, self._addresses[self.output], self._stream)
        self._cuda.synchronize(self._stream)
        return self._host_out.raw

    def _loaded(self, path: "str") -> "Any":
        try:
            plan = Path(path).read_bytes()
        except OSError as err:
            raise Refused(f"cannot read {path}: {err.strerror}") from err
        self._runtime = self._trt.Runtime(self._logger)
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise Refused(f"TensorRT {self._trt.__version__} of this board cannot load the engine: {self._words()}")
        return engine

    def _ports_of(self, engine: "Any") -> "Any":
        context = engine.create_execution_context()
        if context is None:
            raise Refused(f"TensorRT made no execution context: {self._words()}")
        return (_ByName if hasattr(context, "execute_async_v3") else _ByNumber)(self._trt, engine, context)

    def _only(self, is_input: "bool") -> "str":
        names, what = self._ports.names(is_input), "input" if is_input else "output"
        if len(names) != 1:
            raise Refused(f"the engine has {len(names)} {what}s ({', '.join(names)}), a classifier has one")
        if self._ports.type_of(names[0]) != self._trt.DataType.FLOAT:
            raise Refused(f"{what} {names[0]} of the engine is {self._ports.type_of(names[0])}, not float32")
        return str(names[0])

    def _choose(self, batch: "int") -> "list[int]":
        """The input's shape with this batch."""
        shape = self._ports.shape(self.input)
        if len(shape) != 4 or -1 in shape[1:]:
            raise Refused(f"input {self.input} of the engine is {shape}, not (batch, channels, height, width)")
        if shape[0] not in (-1, batch):
            raise Refused(f"the engine is for a batch of {shape[0]}, not of {batch}; give --batch {shape[0]}")
        chosen = [batch, *shape[1:]]
        if not self._ports.choose(self.input, chosen):
            most = self._ports.largest(self.input)[0]
            raise Refused(f"the engine takes no batch of {batch} (at most {most}): {self._words()}")
        return chosen

    def _classes(self) -> "int":
        shape = self._ports.chosen_shape(self.output)
        if len(shape) != 2 or shape[0] != self.batch or shape[1] < 1:
            raise Refused(f"output {self.output} of the engine is {shape}, not (batch, classes)")
        return int(shape[1])

    def _prepare(self, stack: "contextlib.ExitStack") -> "None":
        values = self.batch
        for length in self.image_shape:
            values *= length
        self._cuda = Cuda()
        self._host_in = ctypes.create_string_buffer(FLOAT_BYTES * values)
        self._host_out = ctypes.create_string_buffer(FLOAT_BYTES * self.batch * self.classes)
        self._stream = self._cuda.make_stream()
        stack.callback(self._cuda.destroy_stream, self._stream)
        self._addresses = {}  # type: dict[str, int]
        for name, host in ((self.input, self._host_in), (self.output, self._host_out)):
            self._addresses[name] = self._cuda.malloc(len(host))
            stack.callback(self._cuda.free, self._addresses[name])

    def _release(self) -> "None":
        """In this order: TensorRT crashes where an engine outlives its runtime, or that one its logger."""
        self._ports = None
        self._engine = None
        self._runtime = None

    def _words(self) -> "str":
        return "; ".join(self._said[:_MOST_MESSAGES]) or "it gave no reason"


@contextlib.contextmanager
def opened(path: "str", batch: "int") -> "Iterator[Engine]":
    """The engine, its device memory given back at the end; raises Refused if it cannot be run here."""
    with contextlib.ExitStack() as stack:
        yield Engine(path, batch, stack)


def _binding() -> "Any":
    try:
        return importlib.import_module("tensorrt")
    except (ImportError, OSError) as err:
        reason = " ".join(str(err).split())
        raise Refused(f"python3 of this board has no tensorrt ({reason}): sudo apt install python3-libnvinfer") from err


def _logger_into(trt: "Any", said: "list[str]") -> "Any":
    """Keeps errors in `said`. TensorRT holds the logger without owning it: the caller keeps the object."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> "None":
            trt.ILogger.__init__(self)

        def log(self, severity: "Any", msg: "str") -> "None":
            if int(severity) <= int(trt.ILogger.Severity.ERROR):
                said.append(" ".join(msg.split()))

    return Logger()
