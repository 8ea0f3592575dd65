"""A fake CUDA driver for tests: "device memory" is memory of this process, but it knows what it gave out.

It refuses what the real one refuses (a freed pointer, a length too long, a host address where a device address
belongs) and is asynchronous where the real one may be: a copy to the host happens at the next synchronisation.
At the end of the process it writes what was never freed to $FAKE_STATE/cuda.txt. Once `pretend` was called,
ctypes.CDLL gives it for libcuda.so.1: functions of which ctypes knows no more than their addresses, as of any
library, so that a wrong type of an argument does the harm that it would do there. Python 3.6, as on the oldest board.
"""

import atexit
import ctypes
import os
from pathlib import Path

# ruff: noqa: N802, N815 - the driver's own names
SUCCESS, INVALID_VALUE, OUT_OF_MEMORY, INVALID_CONTEXT, INVALID_HANDLE, ILLEGAL_ADDRESS = 0, 1, 2, 201, 400, 700
WORDS = {
    INVALID_VALUE: b"invalid argument",
    OUT_OF_MEMORY: b"out of memory",
    INVALID_CONTEXT: b"invalid device context",
    INVALID_HANDLE: b"invalid resource handle",
    ILLEGAL_ADDRESS: b"an illegal memory access was encountered",
}
NEVER_WRITTEN, FREED = 0xA5, 0xDD  # never zeros: a value that was not written must not look like one
CONTEXT = 7
_INT, _UINT, _LONG, _SIZE, _POINTER = ctypes.c_int, ctypes.c_uint, ctypes.c_uint64, ctypes.c_size_t, ctypes.c_void_p
_KINDS = {
    "cuGetErrorString": (_INT, _POINTER),
    "cuInit": (_UINT,),
    "cuDeviceGet": (_POINTER, _INT),
    "cuDevicePrimaryCtxRetain": (_POINTER, _INT),
    "cuDevicePrimaryCtxRelease": (_INT,),
    "cuDevicePrimaryCtxRelease_v2": (_INT,),
    "cuCtxSetCurrent": (_POINTER,),
    "cuMemAlloc_v2": (_POINTER, _SIZE),
    "cuMemAllocHost_v2": (_POINTER, _SIZE),
    "cuMemFree_v2": (_LONG,),
    "cuMemFreeHost": (_POINTER,),
    "cuStreamCreate": (_POINTER, _UINT),
    "cuStreamSynchronize": (_POINTER,),
    "cuStreamDestroy_v2": (_POINTER,),
    "cuMemcpyHtoDAsync_v2": (_LONG, _POINTER, _SIZE, _POINTER),
    "cuMemcpyDtoHAsync_v2": (_POINTER, _LONG, _SIZE, _POINTER),
    "fake_is_device": (_LONG, _SIZE),
    "fake_is_stream": (_POINTER,),
}


class _Driver:
    def __init__(self):
        self.blocks, self.pinned = {}, {}  # address -> memory
        self.streams = {}  # address -> (memory, the copies that wait)
        self.words = {code: ctypes.create_string_buffer(text) for code, text in WORDS.items()}
        self.given = self.taken = self.retained = 0

    def fake_is_device(self, address, size):
        return any(start <= (address or 0) <= start + len(one) - size for start, one in self.blocks.items())

    def fake_is_stream(self, stream):
        return stream in self.streams

    def cuGetErrorString(self, code, text):
        _POINTER.from_address(text).value = ctypes.addressof(self.words[code]) if code in self.words else None
        return SUCCESS

    def cuInit(self, flags):
        return SUCCESS

    def cuDeviceGet(self, device, ordinal):
        _INT.from_address(device).value = 0
        return SUCCESS

    def cuDevicePrimaryCtxRetain(self, context, device):
        self.retained += 1
        _POINTER.from_address(context).value = CONTEXT
        return SUCCESS

    def cuDevicePrimaryCtxRelease(self, device):
        self.retained -= 1
        return SUCCESS if self.retained >= 0 else INVALID_CONTEXT

    cuDevicePrimaryCtxRelease_v2 = cuDevicePrimaryCtxRelease

    def cuCtxSetCurrent(self, context):
        return SUCCESS if context == CONTEXT else INVALID_CONTEXT

    def _allocate(self, blocks, address, size):
        if size == 0 or size > int(os.environ.get("FAKE_CUDA_BYTES", 1 << 32)):
            return OUT_OF_MEMORY
        block = ctypes.create_string_buffer(size)
        ctypes.memset(block, NEVER_WRITTEN, size)
        blocks[ctypes.addressof(block)] = block
        self.given += 1
        _POINTER.from_address(address).value = ctypes.addressof(block)
        return SUCCESS

    def cuMemAlloc_v2(self, address, size):
        return self._allocate(self.blocks, address, size)

    def cuMemAllocHost_v2(self, address, size):
        return self._allocate(self.pinned, address, size)

    def _free(self, blocks, address):
        if address not in blocks:
            return INVALID_VALUE
        block = blocks.pop(address)
        ctypes.memset(block, FREED, len(block))
        self.taken += 1
        return SUCCESS

    def cuMemFree_v2(self, address):
        return self._free(self.blocks, address)

    def cuMemFreeHost(self, address):
        return self._free(self.pinned, address)

    def cuStreamCreate(self, stream, flags):
        handle = ctypes.create_string_buffer(1)
        self.streams[ctypes.addressof(handle)] = handle, []
        _POINTER.from_address(stream).value = ctypes.addressof(handle)
        return SUCCESS

    def cuStreamSynchronize(self, stream):
        if stream not in self.streams:
            return INVALID_HANDLE
        waiting = self.streams[stream][1]
        while waiting:
            to, source, size = waiting.pop(0)
            if not self.fake_is_device(source, size):
                return ILLEGAL_ADDRESS
            ctypes.memmove(to, source, size)
        return SUCCESS

    def cuStreamDestroy_v2(self, stream):
        return SUCCESS if self.streams.pop(stream, None) else INVALID_HANDLE

    def cuMemcpyHtoDAsync_v2(self, to, source, size, stream):
        if not self.fake_is_device(to, size) or self.fake_is_device(source, 1):
            return INVALID_VALUE
        code = self.cuStreamSynchronize(stream)
        if code == SUCCESS:
            ctypes.memmove(to, source, size)
        return code

    def cuMemcpyDtoHAsync_v2(self, to, source, size, stream):
        if not self.fake_is_device(source, size) or self.fake_is_device(to, 1):
            return INVALID_VALUE
        if stream not in self.streams:
            return INVALID_HANDLE
        self.streams[stream][1].append((to, source, size))
        return SUCCESS

    def report(self):
        held = f"streams {len(self.streams)} contexts {self.retained}"
        Path(os.environ["FAKE_STATE"], "cuda.txt").write_text(f"given {self.given} taken {self.taken} {held}\n")


class _Library:
    """What ctypes makes of a shared library; a driver of CUDA 10 `is_old`."""

    def __init__(self, driver, is_old):
        self._callbacks = []
        atexit.register(driver.report)
        for name, kinds in _KINDS.items():
            if name == "cuDevicePrimaryCtxRelease_v2" and is_old:
                continue
            self._callbacks.append(ctypes.CFUNCTYPE(_INT, *kinds)(getattr(driver, name)))
            address = ctypes.cast(self._callbacks[-1], _POINTER).value
            setattr(self, name, ctypes.CDLL(None)._FuncPtr(address))


def pretend(is_old):
    """From now on ctypes loads this in place of libcuda."""
    real, made = ctypes.CDLL, []

    def loaded(name, *more, **others):
        if name != "libcuda.so.1":
            return real(name, *more, **others)
        if not made:
            made.append(_Library(_Driver(), is_old))
        return made[0]

    ctypes.CDLL = loaded
