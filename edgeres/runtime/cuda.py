"""The CUDA driver through ctypes: memory, one stream and graphs; neither torch nor the CUDA toolkit is needed.

It works in the device's primary context, which is TensorRT's too. The names are those the driver exports: cuda.h maps
`cuMemAlloc` to `cuMemAlloc_v2`, `cuGraphInstantiate` to `cuGraphInstantiateWithFlags` (from CUDA 11.4 on).

Tested with a fake driver that really copies; never run on hardware so far.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, NamedTuple, NewType

import numpy as np
from numpy.typing import NDArray

from edgeres.core.errors import DeviceError

_LIBRARY = "libcuda.so.1"
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: does not wait for the default stream
_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL


class Buffer(NamedTuple):
    """As many bytes on the GPU at `address` as in `host`: uint8, pinned memory of this machine at `host_address`."""

    address: int
    host_address: int
    host: NDArray[np.uint8]


Captured = NewType("Captured", ctypes.c_void_p)  # a sequence of kernels, ready to be launched


class Cuda:
    """The first GPU with a stream of its own; `close` frees both."""

    def __init__(self, driver: Any = None) -> None:
        self._driver = driver or _driver()
        self._device, context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuInit", ctypes.c_uint(0))
        self._call("cuDeviceGet", ctypes.byref(self._device), ctypes.c_int(0))
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._device)
        self._call("cuCtxSetCurrent", context)
        self._stream = ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(self._stream), ctypes.c_uint(_NON_BLOCKING))

    @property
    def stream(self) -> int:
        """The stream's handle, as `execute_async_v3` takes it."""
        return int(self._stream.value or 0)

    def allocate(self, size_bytes: int) -> Buffer:
        """Memory on both sides; raises DeviceError if there is not enough."""
        address, pinned = ctypes.c_uint64(), ctypes.c_void_p()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size_bytes))
        try:
            self._call("cuMemAllocHost_v2", ctypes.byref(pinned), ctypes.c_size_t(size_bytes))
        except DeviceError:
            self._call("cuMemFree_v2", address)
            raise
        place = int(pinned.value or 0)
        host = np.ctypeslib.as_array((ctypes.c_uint8 * size_bytes).from_address(place))
        return Buffer(address.value, place, host)

    def free(self, buffer: Buffer) -> None:
        """Gives both sides back; `buffer.host` must not be read any more."""
        self._call("cuMemFree_v2", ctypes.c_uint64(buffer.address))
        self._call("cuMemFreeHost", ctypes.c_void_p(buffer.host_address))

    def upload(self, buffer: Buffer, size_bytes: int) -> None:
        """Begins to copy the first `size_bytes` to the GPU."""
        where, what = ctypes.c_uint64(buffer.address), ctypes.c_void_p(buffer.host_address)
        self._call("cuMemcpyHtoDAsync_v2", where, what, ctypes.c_size_t(size_bytes), self._stream)

    def download(self, buffer: Buffer, size_bytes: int) -> None:
        """Begins to copy the first `size_bytes` from the GPU."""
        where, what = ctypes.c_void_p(buffer.host_address), ctypes.c_uint64(buffer.address)
        self._call("cuMemcpyDtoHAsync_v2", where, what, ctypes.c_size_t(size_bytes), self._stream)

    def synchronize(self) -> None:
        """Waits until all that was begun is done."""
        self._call("cuStreamSynchronize", self._stream)

    def capture(self, work: Callable[[], bool]) -> Captured | None:
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

    def launch(self, graph: Captured) -> None:
        """Begins to run the graph."""
        self._call("cuGraphLaunch", graph, self._stream)

    def forget(self, graph: Captured) -> None:
        """Gives the graph back."""
        self._call("cuGraphExecDestroy", graph)

    def close(self) -> None:
        """Gives stream and context back."""
        self._call("cuStreamDestroy_v2", self._stream)
        self._call("cuDevicePrimaryCtxRelease_v2", self._device)

    def _call(self, name: str, *arguments: Any) -> None:
        """Raises DeviceError with the driver's own words unless the call succeeds."""
        function = getattr(self._driver, name, None)
        if function is None:
            raise DeviceError(f"the CUDA driver here lacks {name}; edgeres runs engines with drivers of CUDA 11.4 on")
        if code := function(*arguments):
            text = ctypes.c_char_p()
            self._driver.cuGetErrorString(ctypes.c_int(code), ctypes.byref(text))
            said = (text.value or b"unknown error").decode(errors="replace")
            raise DeviceError(f"CUDA: {name} failed: {said} (error {code})")


def _driver() -> Any:
    try:
        return ctypes.CDLL(_LIBRARY)
    except OSError as err:
        raise DeviceError(
            f"no CUDA driver is installed ({_LIBRARY} cannot be loaded): an engine needs its GPU"
        ) from err
