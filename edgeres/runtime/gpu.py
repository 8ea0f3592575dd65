"""GPUs by the name of their architecture, `sm86` being compute capability 8.6, and the one in this machine."""

from __future__ import annotations

from edgeres.core.errors import DeviceError, InputError
from edgeres.runtime.cuda import CudaError, Gpu, first_gpu

RTX_TARGETS = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
JETSON_TARGETS = {
    "sm53": "Jetson Nano and TX1",
    "sm62": "Jetson TX2",
    "sm72": "Jetson Xavier",
    "sm87": "Jetson Orin",
    "sm101": "Jetson Thor",
    "sm110": "Jetson Thor",
}


def capability(target: str) -> int:
    """86 of `sm86`, to compare with; raises InputError if it is no such name."""
    digits = target.removeprefix("sm")
    if not (target.startswith("sm") and digits.isdecimal()):
        raise InputError(f"{target!r} is not a GPU architecture; they are called as sm86")
    return int(digits)


def local_gpu() -> Gpu:
    """The first GPU, asked of the CUDA driver; raises DeviceError if there is none."""
    try:
        return first_gpu()
    except CudaError as err:
        raise DeviceError(
            f"TensorRT builds engines for the GPU it runs on and finds none here: {err}; run this on the board"
        ) from err
