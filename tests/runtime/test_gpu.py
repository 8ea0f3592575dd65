"""The GPU of this machine as a fake CUDA driver tells it."""

from __future__ import annotations

import ctypes

import pytest

from edgeres.core.errors import DeviceError, InputError
from edgeres.runtime.cuda import CAPABILITY, Gpu
from edgeres.runtime.manifest import capability, local_gpu


def test_no_driver_is_a_device_error(monkeypatch):
    def absent(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", absent)
    with pytest.raises(DeviceError, match=r"no CUDA driver is installed \(libcuda.* run this on the board"):
        local_gpu()


class Driver:
    """The CUDA driver of a machine with the given capability, or with an error."""

    def __init__(self, numbers: tuple[int, int] = (8, 7), error: int = 0) -> None:
        self.numbers, self.error = numbers, error

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return self.error

    def cuDeviceGet(self, device: object, ordinal: int) -> int:  # noqa: N802
        return 0

    def cuDeviceGetName(self, name: object, length: int, device: object) -> int:  # noqa: N802
        name.value = b"Orin"
        return 0

    def cuDriverGetVersion(self, version: object) -> int:  # noqa: N802
        ctypes.cast(version, ctypes.POINTER(ctypes.c_int))[0] = 12060
        return 0

    def cuDeviceGetAttribute(self, value: object, key: int, device: object) -> int:  # noqa: N802
        ctypes.cast(value, ctypes.POINTER(ctypes.c_int))[0] = self.numbers[CAPABILITY.index(key)]
        return 0

    def cuGetErrorString(self, code: object, text: object) -> int:  # noqa: N802
        return 0


@pytest.mark.parametrize(("numbers", "name"), [((8, 7), "sm87"), ((12, 0), "sm120")])
def test_the_local_gpu_is_what_the_driver_says(numbers, name, monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Driver(numbers))
    assert local_gpu() == Gpu(name, "Orin", "12.6")


def test_a_driver_without_a_gpu_is_a_device_error(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Driver(error=100))
    with pytest.raises(DeviceError, match=r"finds none here: CUDA: cuInit failed: unknown error \(error 100\)"):
        local_gpu()


def test_architectures_compare_by_number():
    assert capability("sm120") > capability("sm89")
    with pytest.raises(InputError, match="called as sm86"):
        capability("orin")
