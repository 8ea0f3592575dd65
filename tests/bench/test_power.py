"""Energy of an image on a GPU, by a fake NVML; never near hardware."""

from __future__ import annotations

import contextlib
import sys
import time
from types import SimpleNamespace

import pytest

from edgeres.bench import power
from edgeres.bench.power import Load, Meter, energy_of, nvml_meter
from edgeres.bench.tasks import Task
from edgeres.bench.worker import Job
from edgeres.core.artifacts import Engine, OnnxModel
from edgeres.core.errors import DeviceError, MissingDependency


class NVMLError(Exception):
    pass


class FakeNvml:
    """Reads `idle_mw` or, while `is_busy`, `load_mw`, up to 0.9 W above and below."""

    NVMLError = NVMLError

    def __init__(self, *, idle_mw=50_000, load_mw=250_000, driver=True, tells_power=True):
        self.idle_mw, self.load_mw, self.driver, self.tells_power = idle_mw, load_mw, driver, tells_power
        self.is_busy, self.reads, self.is_open = False, 0, False

    def nvmlInit(self):  # noqa: N802
        if not self.driver:
            raise NVMLError("Driver Not Loaded")
        self.is_open = True

    def nvmlShutdown(self):  # noqa: N802
        self.is_open = False

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        return f"gpu {index}"

    def nvmlDeviceGetPowerUsage(self, handle):  # noqa: N802
        if not self.tells_power:
            raise NVMLError("Not Supported")
        self.reads += 1
        return (self.load_mw if self.is_busy else self.idle_mw) + 300 * (self.reads % 7 - 3)


@pytest.fixture
def nvml(monkeypatch):
    def make(**values):
        fake = FakeNvml(**values)
        monkeypatch.setitem(sys.modules, "pynvml", fake)
        return fake

    return make


def busy(fake, readings=40):
    """Keeps the fake busy until it was read that often; it stays so, the load being the last window."""

    def run():
        fake.is_busy, before = True, fake.reads
        while fake.reads - before < readings:
            time.sleep(0.001)
        return Load(calls=100, seconds=0.5, batch=4)

    return run


def quick(meter):
    meter.settle_s, meter.interval_s = 0.01, 0.002
    return meter


def test_the_energy_of_an_image_is_added_power_times_its_time(nvml):
    fake = nvml()
    with nvml_meter() as meter:
        energy = energy_of(quick(meter), busy(fake), idle_s=0.5, artifact="0", machine="m")
    assert (energy.idle_w, energy.load_w) == (pytest.approx(50, abs=1), pytest.approx(250, abs=10))
    assert energy.mj_per_image == pytest.approx((energy.load_w - energy.idle_w) * 1.25)
    assert energy.half_width_mj > 0
    assert energy.batch == 4
    assert not fake.is_open


def test_readings_that_average_over_the_time_before_are_left_out():
    meter = Meter(lambda: 1.0, settle_s=0.05, interval_s=0.005)
    assert meter.watch(lambda: time.sleep(0.02)) == []
    assert meter.watch(lambda: time.sleep(0.2))


def test_too_few_readings_give_no_energy(nvml):
    fake = nvml()
    with nvml_meter() as meter, pytest.raises(DeviceError, match=r"too few power readings .*measure longer"):
        energy_of(quick(meter), busy(fake, 0), idle_s=0.0, artifact="0", machine="m")


def test_a_reading_that_fails_ends_the_measurement(nvml):
    fake = nvml()
    with nvml_meter() as meter:
        quick(meter)
        fake.tells_power = False
        with pytest.raises(DeviceError, match="NVML tells no power of GPU 0: Not Supported"):
            meter.watch(lambda: time.sleep(0.05))


@pytest.mark.parametrize(
    ("values", "message"),
    [({"driver": False}, "is the NVIDIA driver installed"), ({"tells_power": False}, "tells no power of GPU 0")],
)
def test_a_machine_without_a_gpu_that_tells_its_power_is_a_device_error(values, message, nvml):
    fake = nvml(**values)
    with pytest.raises(DeviceError, match=message), nvml_meter():
        pass
    assert not fake.is_open


def test_without_the_package_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(MissingDependency, match=r"edgeres\[gpu\]"), nvml_meter():
        pass


def test_the_time_of_an_image_counts_the_batch():
    assert Load(calls=10, seconds=1.0, batch=5).image_ms == pytest.approx(20)


def test_engines_are_weighed_and_a_missing_energy_has_its_reason(tmp_path, monkeypatch, nvml):
    fake = nvml()
    with nvml_meter() as meter:
        energy = energy_of(quick(meter), busy(fake), idle_s=0.5, artifact="0", machine="here")

    def weigh(job, **conditions):
        if job.path.name == "dark.plan":
            raise DeviceError("NVML tells no power of GPU 0")
        return energy.model_copy(update={"artifact": conditions["artifact"], "machine": conditions["machine"]})

    monkeypatch.setattr(power, "engine_energy", weigh)
    tasks = []
    for kind, name in ((Engine, "good.plan"), (Engine, "dark.plan"), (OnnxModel, "model.onnx")):
        path = tmp_path / name
        path.write_bytes(name.encode())
        tasks.append(Task(kind(path), Job(path=path, batch=1, threads=1), name))
    energies, reasons = power.energies_of(tasks, "m")
    assert [(one.artifact, one.machine) for one in energies] == [(tasks[0].model.sha256, "m")]
    assert reasons == ["dark.plan: no energy: NVML tells no power of GPU 0"]


def test_an_engine_is_weighed_in_a_process_of_its_own(nvml, monkeypatch):
    fake, asked = nvml(), []

    class FakeWorker(contextlib.nullcontext):
        def __enter__(self):
            return self

        def measure(self, turn):
            asked.append((self.enter_result, turn.seconds))
            busy(fake)()
            return SimpleNamespace(samples_ms=[1.0] * 50)

    monkeypatch.setattr(power, "Worker", FakeWorker)
    monkeypatch.setattr(power, "Meter", lambda read: Meter(read, settle_s=0.01, interval_s=0.002))
    job = Job(path="model.plan", batch=2, threads=1)
    energy = power.engine_energy(job, idle_s=0.5, load_s=3.0, artifact="0", machine="m")
    assert asked == [(job, 3.0)]
    assert (energy.batch, energy.artifact) == (2, "0")
    assert 0 < energy.mj_per_image < 200 * 1000
