"""The few calls of libcudart that running an engine needs, through ctypes.

JetPack's Python has no CUDA package, so device memory is asked of the C library itself. The library is looked for
below /usr/local/cuda (of the board's root), then wherever the system's loader finds one.
"""

import ctypes
import ctypes.util

from . import detect
from .process import Refused

_PLACES = ("cuda/lib64", "cuda/targets/*/lib", "cuda-*/lib64", "cuda-*/targets/*/lib")
_TO_DEVICE, _TO_HOST = 1, 2  # cudaMemcpyKind
_POINTER, _SIZE = ctypes.c_void_p, ctypes.c_size_t
_ARGUMENTS = {
    "cudaMalloc": [ctypes.POINTER(_POINTER), _SIZE],
    "cudaFree": [_POINTER],
    "cudaStreamCreate": [ctypes.POINTER(_POINTER)],
    "cudaStreamSynchronize": [_POINTER],
    "cudaStreamDestroy": [_POINTER],
    "cudaMemcpyAsync": [_POINTER, _POINTER, _SIZE, ctypes.c_int, _POINTER],
}


class Cuda:
    """libcudart; every call raises Refused with CUDA's own words if it fails. Addresses are device addresses."""

    def __init__(self) -> "None":
        self._library = _library()
        self._library.cudaGetErrorString.restype = ctypes.c_char_p
        for name, kinds in _ARGUMENTS.items():
            getattr(self._library, name).argtypes = kinds

    def malloc(self, size: "int") -> "int":
        """Address of `size` bytes."""
        address = _POINTER()
        self._call(f"cudaMalloc of {size} bytes", self._library.cudaMalloc(ctypes.byref(address), size))
        return int(address.value or 0)

    def free(self, address: "int") -> "None":
        """Gives memory back."""
        self._call("cudaFree", self._library.cudaFree(address))

    def make_stream(self) -> "int":
        """Handle of a new stream."""
        handle = _POINTER()
        self._call("cudaStreamCreate", self._library.cudaStreamCreate(ctypes.byref(handle)))
        return int(handle.value or 0)

    def destroy_stream(self, stream: "int") -> "None":
        """Ends a stream."""
        self._call("cudaStreamDestroy", self._library.cudaStreamDestroy(stream))

    def upload(self, address: "int", host: "ctypes.Array[ctypes.c_char]", stream: "int") -> "None":
        """Copies all of `host` to the device, in the stream's order; `host` must live until `synchronize`."""
        code = self._library.cudaMemcpyAsync(address, ctypes.addressof(host), len(host), _TO_DEVICE, stream)
        self._call("cudaMemcpyAsync to the device", code)

    def download(self, host: "ctypes.Array[ctypes.c_char]", address: "int", stream: "int") -> "None":
        """Fills `host` from the device; it may be read after `synchronize`."""
        code = self._library.cudaMemcpyAsync(ctypes.addressof(host), address, len(host), _TO_HOST, stream)
        self._call("cudaMemcpyAsync from the device", code)

    def synchronize(self, stream: "int") -> "None":
        """Waits until all that was asked of the stream is done."""
        self._call("cudaStreamSynchronize", self._library.cudaStreamSynchronize(stream))

    def _call(self, what: "str", code: "int") -> "None":
        if code:
            said = self._library.cudaGetErrorString(code) or b"unknown"
            raise Refused(f"{what} failed: {said.decode()} (CUDA error {code})")


def _library() -> "ctypes.CDLL":
    found = [str(path) for place in _PLACES for path in detect.found("usr/local/" + place, "libcudart.so*")]
    usual = ctypes.util.find_library("cudart") if detect.is_this_machine() else None
    name = found[0] if found else usual
    if name is None:
        raise Refused("no libcudart on this board; install it: sudo apt install nvidia-jetpack")
    try:
        return ctypes.CDLL(name)
    except OSError as err:
        raise Refused(f"{name} cannot be loaded: {err}") from err
