"""The CUDA driver through ctypes: which GPU there is, memory, one stream and graphs; no CUDA toolkit is needed.

It works in the device's primary context, which is TensorRT's too. The names are those the driver exports: cuda.h maps
`cuMemAlloc` to `cuMemAlloc_v2`, `cuGraphInstantiate` to `cuGraphInstantiateWithFlags` (from CUDA 11.4 on; only what
times engines here captures graphs).

Python 3.6 and the standard library: the agent takes it to the board. Tested with fake drivers that really copy; never
run on hardware so far.
"""

import ctypes
from typing import Any, Callable, NamedTuple, NewType  # noqa: UP035 - Python 3.6

LIBRARY = "libcuda.so.1"
CAPABILITY = (75, 76)  # CUdevice_attribute, the driver's ABI: major and minor
_NAME_BYTES = 256
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: does not wait for the default stream
_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
_RELEASES = ("cuDevicePrimaryCtxRelease_v2", "cuDevicePrimaryCtxRelease")  # from CUDA 11 on, and before


class CudaError(Exception):
    """What the driver refused, in its own words, or that there is none."""


class Gpu(NamedTuple):
    """A GPU: `target` is sm87 for compute capability 8.7, `cuda` the newest that its driver knows, such as 12.6."""

    target: "str"
    name: "str"
    cuda: "str"


class Buffer(NamedTuple):
    """As many bytes on the GPU at `address` as in `host`: pinned memory of this machine at `host_address`, bytes."""

    address: "int"
    host_address: "int"
    host: "memoryview"


Captured = NewType("Captured", ctypes.c_void_p)  # a sequence of kernels, ready to be launched


def first_gpu() -> "Gpu":
    """The first GPU of this machine; raises CudaError if there is none."""
    driver = _driver()
    _check(driver, "cuInit", driver.cuInit(0))
    device, version, name = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(_NAME_BYTES)
    _check(driver, "cuDeviceGet", driver.cuDeviceGet(ctypes.byref(device), 0))
    _check(driver, "cuDeviceGetName", driver.cuDeviceGetName(name, _NAME_BYTES, device))
    _check(driver, "cuDriverGetVersion", driver.cuDriverGetVersion(ctypes.byref(version)))
    major, minor = ctypes.c_int(), ctypes.c_int()
    for part, key in zip((major, minor), CAPABILITY):  # noqa: B905 - Python 3.6
        _check(driver, "cuDeviceGetAttribute", driver.cuDeviceGetAttribute(ctypes.byref(part), key, device))
    cuda = f"{version.value // 1000}.{version.value % 1000 // 10}"  # 12060 is 12.6, as cuda.h numbers its versions
    return Gpu(f"sm{major.value}{minor.value}", name.value.decode(errors="replace"), cuda)


class Cuda:
    """The first GPU with a stream of its own; `close` frees both. Every call raises CudaError if it fails."""

    def __init__(self) -> "None":
        self._driver = _driver()
        self._device, context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuInit", ctypes.c_uint(0))
        self._call("cuDeviceGet", ctypes.byref(self._device), ctypes.c_int(0))
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._device)
        self._call("cuCtxSetCurrent", context)
        self._stream = ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(self._stream), ctypes.c_uint(_NON_BLOCKING))

    @property
    def stream(self) -> "int":
        """The stream's handle, as TensorRT takes it."""
        return int(self._stream.value or 0)

    def allocate(self, size_bytes: "int") -> "Buffer":
        """Memory on both sides."""
        address, pinned = ctypes.c_uint64(), ctypes.c_void_p()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size_bytes))
        try:
            self._call("cuMemAllocHost_v2", ctypes.byref(pinned), ctypes.c_size_t(size_bytes))
        except CudaError:
            self._call("cuMemFree_v2", address)
            raise
        place = int(pinned.value or 0)
        return Buffer(address.value, place, memoryview((ctypes.c_uint8 * size_bytes).from_address(place)).cast("B"))

    def free(self, buffer: "Buffer") -> "None":
        """Gives both sides back; `buffer.host` must not be read any more."""
        self._call("cuMemFree_v2", ctypes.c_uint64(buffer.address))
        self._call("cuMemFreeHost", ctypes.c_void_p(buffer.host_address))

    def upload(self, buffer: "Buffer", size_bytes: "int") -> "None":
        """Begins to copy the first `size_bytes` to the GPU."""
        where, what = ctypes.c_uint64(buffer.address), ctypes.c_void_p(buffer.host_address)
        self._call("cuMemcpyHtoDAsync_v2", where, what, ctypes.c_size_t(size_bytes), self._stream)

    def download(self, buffer: "Buffer", size_bytes: "int") -> "None":
        """Begins to copy the first `size_bytes` from the GPU."""
        where, what = ctypes.c_void_p(buffer.host_address), ctypes.c_uint64(buffer.address)
        self._call("cuMemcpyDtoHAsync_v2", where, what, ctypes.c_size_t(size_bytes), self._stream)

    def synchronize(self) -> "None":
        """Waits until all that was begun is done."""
        self._call("cuStreamSynchronize", self._stream)

    def capture(self, work: "Callable[[], bool]") -> "Captured | None":
        """What `work` puts on the stream, as a graph; None if that cannot be captured (`work` says so by False)."""
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamBeginCapture_v2", self._stream, ctypes.c_int(_THREAD_LOCAL))
        is_done = work()
        ended = self._driver.cuStreamEndCapture(self._stream, ctypes.byref(graph))
        if ended or not is_done:
            return None
        self._call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, ctypes.c_uint64(0))
        self._call("cuGraphDestroy", graph)
        return Captured(executable)

    def launch(self, graph: "Captured") -> "None":
        """Begins to run the graph."""
        self._call("cuGraphLaunch", graph, self._stream)

    def forget(self, graph: "Captured") -> "None":
        """Gives the graph back."""
        self._call("cuGraphExecDestroy", graph)

    def close(self) -> "None":
        """Gives stream and context back."""
        self._call("cuStreamDestroy_v2", self._stream)
        self._call(next((name for name in _RELEASES if hasattr(self._driver, name)), _RELEASES[0]), self._device)

    def _call(self, name: "str", *arguments: "Any") -> "None":
        function = getattr(self._driver, name, None)
        if function is None:
            raise CudaError(f"the CUDA driver here lacks {name}; edgeres times engines with drivers of CUDA 11.4 on")
        _check(self._driver, name, function(*arguments))


def _check(driver: "Any", name: "str", code: "int") -> "None":
    if code:
        text = ctypes.c_char_p()
        driver.cuGetErrorString(ctypes.c_int(code), ctypes.byref(text))
        said = (text.value or b"unknown error").decode(errors="replace")
        raise CudaError(f"CUDA: {name} failed: {said} (error {code})")


def _driver() -> "Any":
    try:
        return ctypes.CDLL(LIBRARY)
    except OSError as err:
        raise CudaError(f"no CUDA driver is installed ({LIBRARY} cannot be loaded)") from err
