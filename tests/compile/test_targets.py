from __future__ import annotations

import ctypes

import pytest

from edgeres.compile import targets
from edgeres.compile.targets import JETSON_TARGETS, RTX_TARGETS, Gpu, capability, check_rtx_targets, local_gpu
from edgeres.core.errors import DeviceError, InputError


def test_known_targets_pass():
    check_rtx_targets(RTX_TARGETS)


@pytest.mark.parametrize("target", JETSON_TARGETS)
def test_a_jetson_target_is_refused_with_the_way_to_build_for_it(target):
    with pytest.raises(InputError, match=rf"{target} is Jetson .*--runtime tensorrt") as caught:
        check_rtx_targets(("sm86", target))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "message"), [(("sm98",), "unknown target 'sm98'; did you mean sm"), ((), "no target given")]
)
def test_an_unknown_target_is_guessed(wrong, message):
    with pytest.raises(InputError, match=message):
        check_rtx_targets(wrong)


def test_no_driver_is_a_device_error(monkeypatch):
    def absent(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", absent)
    with pytest.raises(DeviceError, match="no CUDA driver is installed; run this on the board"):
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
        ctypes.cast(value, ctypes.POINTER(ctypes.c_int))[0] = self.numbers[key - targets._CAPABILITY_MAJOR]
        return 0


@pytest.mark.parametrize(("numbers", "name"), [((8, 7), "sm87"), ((12, 0), "sm120")])
def test_the_local_gpu_is_what_the_driver_says(numbers, name, monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Driver(numbers))
    assert local_gpu() == Gpu(name, "Orin", "12.6")


def test_a_driver_without_a_gpu_is_a_device_error(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Driver(error=100))
    with pytest.raises(DeviceError, match="reports error 100"):
        local_gpu()


def test_architectures_compare_by_number():
    assert capability("sm120") > capability("sm89")
    with pytest.raises(InputError, match="called as sm86"):
        capability("orin")
