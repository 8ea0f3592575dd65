"""A fake libcudart for tests: "device memory" is memory of this process, but it knows what it gave out.

It refuses what the real one refuses (a freed pointer, a length too long, a host address where a device address
belongs) and is asynchronous where the real one may be: a copy to the host happens at the next synchronisation.
At the end of the process it writes what was never freed to $FAKE_STATE/cuda.txt. Once `pretend` was called,
ctypes.CDLL gives it for a file libcudart.so: functions of which ctypes knows no more than their addresses, as of any
library, so that a wrong type of an argument does the harm that it would do there. Python 3.6, as on the oldest board.
"""

import atexit
import ctypes
import os
from pathlib import Path

SUCCESS, INVALID_VALUE, OUT_OF_MEMORY, INVALID_HANDLE, ILLEGAL_ADDRESS = 0, 1, 2, 400, 700
WORDS = {
    SUCCESS: b"no error",
    INVALID_VALUE: b"invalid argument",
    OUT_OF_MEMORY: b"out of memory",
    INVALID_HANDLE: b"invalid resource handle",
    ILLEGAL_ADDRESS: b"an illegal memory access was encountered",
}
HOST_TO_DEVICE, DEVICE_TO_HOST = 1, 2
NEVER_WRITTEN, FREED = 0xA5, 0xDD  # never zeros: a value that was not written must not look like one
_INT, _SIZE, _POINTER = ctypes.c_int, ctypes.c_size_t, ctypes.c_void_p
_KINDS = {
    "cudaGetErrorString": (_POINTER, _INT),
    "cudaMalloc": (_INT, _POINTER, _SIZE),
    "cudaFree": (_INT, _POINTER),
    "cudaStreamCreate": (_INT, _POINTER),
    "cudaStreamSynchronize": (_INT, _POINTER),
    "cudaStreamDestroy": (_INT, _POINTER),
    "cudaMemcpyAsync": (_INT, _POINTER, _POINTER, _SIZE, _INT, _POINTER),
    "fake_is_device": (_INT, _POINTER, _SIZE),
    "fake_is_stream": (_INT, _POINTER),
}


class _Cuda:
    def __init__(self):
        self.blocks = {}  # address -> memory
        self.streams = {}  # address -> (memory, the copies that wait)
        self.words = {code: ctypes.create_string_buffer(text) for code, text in WORDS.items()}
        self.given = self.taken = 0

    def fake_is_device(self, address, size):
        return any(start <= (address or 0) <= start + len(one) - size for start, one in self.blocks.items())

    def fake_is_stream(self, stream):
        return stream in self.streams

    def cudaGetErrorString(self, code):  # noqa: N802
        return ctypes.addressof(self.words[code]) if code in self.words else None

    def cudaMalloc(self, address, size):  # noqa: N802
        if size == 0 or size > int(os.environ.get("FAKE_CUDA_BYTES", 1 << 32)):
            return OUT_OF_MEMORY
        block = ctypes.create_string_buffer(size)
        ctypes.memset(block, NEVER_WRITTEN, size)
        self.blocks[ctypes.addressof(block)] = block
        self.given += 1
        _POINTER.from_address(address).value = ctypes.addressof(block)
        return SUCCESS

    def cudaFree(self, address):  # noqa: N802
        if not address:
            return SUCCESS
        if address not in self.blocks:
            return INVALID_VALUE
        block = self.blocks.pop(address)
        ctypes.memset(block, FREED, len(block))
        self.taken += 1
        return SUCCESS

    def cudaStreamCreate(self, stream):  # noqa: N802
        handle = ctypes.create_string_buffer(1)
        self.streams[ctypes.addressof(handle)] = handle, []
        _POINTER.from_address(stream).value = ctypes.addressof(handle)
        return SUCCESS

    def cudaStreamSynchronize(self, stream):  # noqa: N802
        if stream not in self.streams:
            return INVALID_HANDLE
        waiting = self.streams[stream][1]
        while waiting:
            to, source, size = waiting.pop(0)
            if not self.fake_is_device(source, size):
                return ILLEGAL_ADDRESS
            ctypes.memmove(to, source, size)
        return SUCCESS

    def cudaStreamDestroy(self, stream):  # noqa: N802
        return SUCCESS if self.streams.pop(stream, None) else INVALID_HANDLE

    def cudaMemcpyAsync(self, to, source, size, kind, stream):  # noqa: N802
        if stream not in self.streams:
            return INVALID_HANDLE
        device, host = (to, source) if kind == HOST_TO_DEVICE else (source, to)
        is_right = self.fake_is_device(device, size) and not self.fake_is_device(host, 1)
        if kind not in (HOST_TO_DEVICE, DEVICE_TO_HOST) or not is_right:
            return INVALID_VALUE
        if kind == DEVICE_TO_HOST:
            self.streams[stream][1].append((to, source, size))
            return SUCCESS
        code = self.cudaStreamSynchronize(stream)
        if code == SUCCESS:
            ctypes.memmove(to, source, size)
        return code

    def report(self):
        counts = f"given {self.given} taken {self.taken} streams {len(self.streams)}\n"
        Path(os.environ["FAKE_STATE"], "cuda.txt").write_text(counts)


class _Library:
    """What ctypes makes of a shared library."""

    def __init__(self, cuda):
        self._callbacks = []
        atexit.register(cuda.report)
        for name, kinds in _KINDS.items():
            self._callbacks.append(ctypes.CFUNCTYPE(*kinds)(getattr(cuda, name)))
            address = ctypes.cast(self._callbacks[-1], _POINTER).value
            setattr(self, name, ctypes.CDLL(None)._FuncPtr(address))


def pretend():
    """From now on ctypes loads this in place of a libcudart."""
    real, made = ctypes.CDLL, []

    def loaded(name, *more, **others):
        if not str(name or "").rpartition("/")[2].startswith("libcudart.so"):
            return real(name, *more, **others)
        if not made:
            made.append(_Library(_Cuda()))
        return made[0]

    ctypes.CDLL = loaded
