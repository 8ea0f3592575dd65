"""GPUs by the name of their architecture, `sm86` being compute capability 8.6, and the one in this machine."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from edgeres.core.errors import DeviceError, InputError

RTX_TARGETS = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
JETSON_TARGETS = {
    "sm53": "Jetson Nano and TX1",
    "sm62": "Jetson TX2",
    "sm72": "Jetson Xavier",
    "sm87": "Jetson Orin",
    "sm101": "Jetson Thor",
    "sm110": "Jetson Thor",
}
_CAPABILITY = (75, 76)  # CUdevice_attribute, the driver's ABI: major and minor
_NAME_BYTES = 256


@dataclass(frozen=True)
class Gpu:
    """A GPU of this machine; `cuda` is the newest CUDA version its driver knows, such as 12.6."""

    target: str
    name: str
    cuda: str


def capability(target: str) -> int:
    """86 of `sm86`, to compare with; raises InputError if it is no such name."""
    digits = target.removeprefix("sm")
    if not (target.startswith("sm") and digits.isdecimal()):
        raise InputError(f"{target!r} is not a GPU architecture; they are called as sm86")
    return int(digits)


def local_gpu() -> Gpu:
    """The first GPU, asked of the CUDA driver; raises DeviceError if there is none."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as err:
        raise _no_gpu("no CUDA driver is installed") from err
    _checked(driver.cuInit(0))
    device, version, name = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(_NAME_BYTES)
    _checked(driver.cuDeviceGet(ctypes.byref(device), 0))
    _checked(driver.cuDeviceGetName(name, _NAME_BYTES, device))
    _checked(driver.cuDriverGetVersion(ctypes.byref(version)))
    target, value = "sm", ctypes.c_int()
    for key in _CAPABILITY:
        _checked(driver.cuDeviceGetAttribute(ctypes.byref(value), key, device))
        target += str(value.value)
    cuda = f"{version.value // 1000}.{version.value % 1000 // 10}"  # 12060 is 12.6, as cuda.h numbers its versions
    return Gpu(target, name.value.decode(errors="replace"), cuda)


def _checked(code: int) -> None:
    if code:
        raise _no_gpu(f"the CUDA driver reports error {code}")


def _no_gpu(reason: str) -> DeviceError:
    return DeviceError(
        f"TensorRT builds engines for the GPU it runs on and finds none here: {reason}; run this on the board"
    )
