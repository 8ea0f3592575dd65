"""A fake `tensorrt` for tests: the names of the binding that a JetPack has, ONNX Runtime behind them.

It loads the plans of the fake trtexec, reads and writes "device memory" of the fake driver by address, and refuses
what the real one refuses: another version's plan, a wrong tensor, an address that was not set or is not the device's,
a shape outside the profile. Python 3.6, as on the oldest board.
"""

import ctypes
import json
import os
import signal
import struct
import subprocess
import time
from pathlib import Path

import cuda_driver

_ROOT = Path(__file__).resolve().parents[1]
_FAKE = json.loads((_ROOT / "fake.json").read_text())
_VERSION = _FAKE["tensorrt"]
_HEADER_BYTES, _VERSION_AT, _SIZE_AT = 64, 24, 16
_HAS_TENSORS, _HAS_BINDINGS = _VERSION >= [8, 5], _VERSION < [10]
_FLOAT_BYTES = 4
__version__ = ".".join(map(str, _VERSION))
cuda_driver.pretend(is_old=_VERSION < [8, 4])  # CUDA 10


def _modes():
    kept = _ROOT / "state" / "mode"
    return (kept.read_text().strip() if kept.exists() else os.environ.get("FAKE_MODE", "")).split(",")


class _Name:
    def __init__(self, name, value):
        self.name, self.value = name, value

    def __int__(self):
        return self.value

    def __le__(self, other):
        return self.value <= other.value

    def __eq__(self, other):
        return isinstance(other, _Name) and (self.name, self.value) == (other.name, other.value)

    def __hash__(self):
        return hash(self.name)

    def __repr__(self):
        return f"<{self.name}: {self.value}>"


class DataType:
    FLOAT, HALF, INT8, INT32 = (_Name(name, value) for value, name in enumerate(["FLOAT", "HALF", "INT8", "INT32"]))


if _HAS_TENSORS:

    class TensorIOMode:
        NONE, INPUT, OUTPUT = (_Name(name, value) for value, name in enumerate(["NONE", "INPUT", "OUTPUT"]))


class ILogger:
    class Severity:
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = (
            _Name(name, value) for value, name in enumerate(["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"])
        )

    _is_made = False

    def __init__(self):
        self._is_made = True

    def log(self, severity, msg):
        raise NotImplementedError


class Dims:
    """Neither a tuple nor a list, as the real one."""

    def __init__(self, lengths):
        self._lengths = list(lengths)

    def __len__(self):
        return len(self._lengths)

    def __getitem__(self, index):
        return self._lengths[index]


def _driver():
    library = ctypes.CDLL("libcuda.so.1")
    library.fake_is_device.argtypes = [ctypes.c_uint64, ctypes.c_size_t]
    library.fake_is_stream.argtypes = [ctypes.c_void_p]
    return library


class Runtime:
    def __init__(self, logger):
        if not isinstance(logger, ILogger) or not logger._is_made:
            raise TypeError("Runtime(logger): logger must be an ILogger whose __init__ was called")
        self._logger = logger

    def deserialize_cuda_engine(self, plan):
        plan = bytes(plan)
        problem = _problem_of(plan)
        if problem:
            self._logger.log(ILogger.Severity.ERROR, problem)
            return None
        text, _, onnx = plan[_HEADER_BYTES:].partition(b"\n")
        return _ENGINE(self._logger, json.loads(text.decode()), onnx)


def _problem_of(plan):
    if plan[:4] != b"ftrt" or len(plan) < _HEADER_BYTES:
        return "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (magic tag does not match)"
    if list(plan[_VERSION_AT : _VERSION_AT + 3]) != _VERSION[:3]:
        built = ".".join(map(str, plan[_VERSION_AT : _VERSION_AT + 4]))
        return (
            "The engine plan file is not compatible with this version of TensorRT, expecting library version "
            f"{__version__} got {built}, please rebuild."
        )
    if struct.unpack("<I", plan[_SIZE_AT : _SIZE_AT + 4])[0] != len(plan):
        return "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (plan is cut short)"
    return ""


class _Worker:
    """ONNX Runtime in the tests' own Python: this module may run in another one that lacks it."""

    def __init__(self, onnx):
        script = str(_ROOT / "python" / "ort_worker.py")
        pipe = subprocess.PIPE
        environment = {key: value for key, value in os.environ.items() if key != "TMPDIR"}  # it writes a file there
        self._child = subprocess.Popen([_FAKE["python"], script], stdin=pipe, stdout=pipe, env=environment)
        self._child.stdin.write(struct.pack("<q", len(onnx)) + onnx)

    def run(self, shape, values):
        self._child.stdin.write(struct.pack("<4q", *shape) + values)
        self._child.stdin.flush()
        head = self._child.stdout.read(8)
        return self._child.stdout.read(_FLOAT_BYTES * struct.unpack("<q", head)[0])


class _Engine:
    def __init__(self, logger, network, onnx):
        self._logger, self._network, self._onnx = logger, network, onnx
        self._names = list(network["inputs"]) + list(network["outputs"])[::-1]  # in an order of its own

    def create_execution_context(self):
        return _CONTEXT(self)

    def _shape(self, name):
        return self._network["inputs"].get(name) or self._network["outputs"].get(name)

    def _fail(self, text):
        message = f"IExecutionContext: Error Code 3: API Usage Error ({text})"
        self._logger.log(ILogger.Severity.ERROR, message)
        return False


class _TensorEngine(_Engine):
    @property
    def num_io_tensors(self):
        return len(self._names)

    def get_tensor_name(self, index):
        return self._names[index]

    def get_tensor_mode(self, name):
        if name not in self._names:
            return TensorIOMode.NONE
        return TensorIOMode.INPUT if name in self._network["inputs"] else TensorIOMode.OUTPUT

    def get_tensor_shape(self, name):
        return Dims(self._shape(name))

    def get_tensor_dtype(self, name):
        return DataType.FLOAT

    def get_tensor_profile_shape(self, name, profile_index):
        return [Dims(shape) for shape in self._network["profile"][name]]


class _BindingEngine(_Engine):
    @property
    def num_bindings(self):
        return len(self._names)

    def get_binding_name(self, index):
        return self._names[index]

    def binding_is_input(self, index):
        return self._names[index] in self._network["inputs"]

    def get_binding_shape(self, index):
        return Dims(self._shape(self._names[index]))

    def get_binding_dtype(self, index):
        return DataType.FLOAT

    def get_profile_shape(self, profile_index, binding):
        name = binding if isinstance(binding, str) else self._names[binding]
        return [Dims(shape) for shape in self._network["profile"][name]]


class _Context:
    def __init__(self, engine):
        self.engine = engine
        self._shapes = {name: shape for name, shape in engine._network["inputs"].items() if -1 not in shape}
        self._worker, self._library = None, None

    def _set_shape(self, name, shape):
        engine, shape = self.engine, list(shape)
        if name not in engine._network["inputs"]:
            return engine._fail(f"setInputShape: given invalid tensor name: {name}")
        low, _, high = engine._network["profile"][name]
        if len(shape) != len(low) or not all(a <= b <= c for a, b, c in zip(low, shape, high)):  # noqa: B905
            return engine._fail("setInputShape: supplied dimensions do not satisfy the optimization profile")
        self._shapes[name] = shape
        return True

    def _execute(self, addresses, stream):
        if "evalcrash" in _modes():
            os.kill(os.getpid(), signal.SIGSEGV)
        if "evalhang" in _modes():
            time.sleep(600)
        self._library = self._library or _driver()
        engine, network = self.engine, self.engine._network
        (name,) = network["inputs"]
        if name not in self._shapes:
            return engine._fail(f"enqueue: the shape of input {name} was not set")
        shape = self._shapes[name]
        size = _FLOAT_BYTES
        for length in shape:
            size *= length
        if not self._library.fake_is_stream(stream) or self._library.cuStreamSynchronize(ctypes.c_void_p(stream)):
            return engine._fail("enqueue: invalid stream")
        if not self._library.fake_is_device(addresses.get(name) or 0, size):
            return engine._fail(f"enqueue: the address of input {name} is not set or no device memory of that size")
        self._worker = self._worker or _Worker(engine._onnx)
        result = self._worker.run(shape, ctypes.string_at(addresses[name], size))
        for output, lengths in network["outputs"].items():
            size = _FLOAT_BYTES * shape[0]
            for length in lengths[1:]:
                size *= length
            if not self._library.fake_is_device(addresses.get(output) or 0, size):
                return engine._fail(
                    f"enqueue: the address of output {output} is not set or no device memory of that size"
                )
            ctypes.memmove(addresses[output], result[:size], size)
            result = result[size:]
        return True


class _TensorContext(_Context):
    _addresses = None

    def set_input_shape(self, name, shape):
        return self._set_shape(name, shape)

    def get_tensor_shape(self, name):
        batch = next(iter(self._shapes.values()))[0] if self._shapes else -1
        return Dims([batch, *list(self.engine._shape(name))[1:]])

    def set_tensor_address(self, name, memory):
        if name not in self.engine._names:
            return self.engine._fail(f"setTensorAddress: given invalid tensor name: {name}")
        self._addresses = dict(self._addresses or {}, **{name: memory})
        return True

    def execute_async_v3(self, stream_handle):
        return self._execute(self._addresses or {}, stream_handle)


class _BindingContext(_Context):
    def set_binding_shape(self, binding, shape):
        return self._set_shape(self.engine._names[binding], shape)

    def get_binding_shape(self, binding):
        batch = next(iter(self._shapes.values()))[0] if self._shapes else -1
        return Dims([batch, *list(self.engine._shape(self.engine._names[binding]))[1:]])

    def execute_async_v2(self, bindings, stream_handle):
        return self._execute(dict(zip(self.engine._names, bindings)), stream_handle)  # noqa: B905


def _class(name, with_tensors, with_bindings):
    bases = ((with_tensors,) if _HAS_TENSORS else ()) + ((with_bindings,) if _HAS_BINDINGS else ())
    return type(name, bases, {})


_ENGINE = _class("ICudaEngine", _TensorEngine, _BindingEngine)
_CONTEXT = _class("IExecutionContext", _TensorContext, _BindingContext)
