"""What an engine may be built for: GPU architectures by name, `sm86` being compute capability 8.6."""

from __future__ import annotations

import ctypes

from edgeres.core.errors import DeviceError, InputError, did_you_mean

RTX_TARGETS = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
JETSON_TARGETS = {
    "sm53": "Jetson Nano and TX1",
    "sm62": "Jetson TX2",
    "sm72": "Jetson Xavier",
    "sm87": "Jetson Orin",
    "sm101": "Jetson Thor",
    "sm110": "Jetson Thor",
}
# CUdevice_attribute, the driver's ABI
_CAPABILITY_MAJOR = 75
_CAPABILITY_MINOR = 76


def check_rtx_targets(targets: tuple[str, ...]) -> None:
    """Raises InputError for an architecture TensorRT-RTX does not build for."""
    if not targets:
        raise InputError(f"no target given; known: {', '.join(RTX_TARGETS)}")
    for target in targets:
        if target in JETSON_TARGETS:
            raise InputError(
                f"target {target} is {JETSON_TARGETS[target]}, which TensorRT-RTX does not know; engines for"
                " a Jetson are built on the board: edgeres compile --runtime tensorrt"
            )
        if target not in RTX_TARGETS:
            guess = did_you_mean(target, RTX_TARGETS)
            raise InputError(f"unknown target {target!r}{guess} (known: {', '.join(RTX_TARGETS)})")


def local_target() -> str:
    """The architecture of the first GPU, asked of the CUDA driver; raises DeviceError if there is none."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as err:
        raise _no_gpu("no CUDA driver is installed") from err
    if code := driver.cuInit(0):
        raise _no_gpu(f"the CUDA driver reports error {code}")
    device = ctypes.c_int()
    if code := driver.cuDeviceGet(ctypes.byref(device), 0):
        raise _no_gpu(f"the CUDA driver reports error {code}")
    return "sm" + "".join(str(_attribute(driver, device, key)) for key in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR))


def _attribute(driver: ctypes.CDLL, device: ctypes.c_int, key: int) -> int:
    value = ctypes.c_int()
    if code := driver.cuDeviceGetAttribute(ctypes.byref(value), key, device):
        raise _no_gpu(f"the CUDA driver reports error {code}")
    return value.value


def _no_gpu(reason: str) -> DeviceError:
    return DeviceError(
        f"TensorRT builds engines for the GPU it runs on and finds none here: {reason}; run this on the board"
    )
