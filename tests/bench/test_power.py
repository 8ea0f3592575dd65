"""Energy of an image on a GPU, by a fake NVML; never near hardware."""

from __future__ import annotations

import contextlib
import re
import sys
import time
from types import SimpleNamespace

import pytest

from edgeres.bench import power
from edgeres.bench.power import engine_energy, power_of_gpu, watched
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
    """`nvml(load_mw=...)`: a GPU read every 2 ms, and workers that keep it busy until it was read `readings` times."""

    def make(*, readings=40, **values):
        fake = FakeNvml(**values)
        fake.asked = []

        class FakeWorker(contextlib.nullcontext):
            def __enter__(self):
                return self

            def measure(self, turn):
                fake.asked.append((self.enter_result, turn.seconds))
                fake.is_busy, before = True, fake.reads
                while fake.reads - before < readings:
                    time.sleep(0.001)
                return SimpleNamespace(samples_ms=[1.0] * 50)

        monkeypatch.setitem(sys.modules, "pynvml", fake)
        monkeypatch.setattr(power, "Worker", FakeWorker)
        for name, seconds in {"AVERAGED_S": 0.01, "INTERVAL_S": 0.002, "IDLE_S": 0.5, "LOAD_S": 3.0}.items():
            monkeypatch.setattr(power, name, seconds)
        return fake

    return make


JOB = Job(path="model.plan", batch=4, threads=1)


def test_the_energy_of_an_image_is_added_power_times_its_time(nvml, monkeypatch):
    fake = nvml()
    seen = []
    monkeypatch.setattr(power, "watched", lambda *given: seen.append(watched(*given)) or seen[-1])
    energy = engine_energy(JOB, artifact="0", machine="m")
    assert (energy.idle_w, energy.load_w) == (pytest.approx(50, abs=1), pytest.approx(250, abs=10))
    image_ms = 1000 * seen[1][1] / 50 / 4
    assert energy.mj_per_image == pytest.approx((energy.load_w - energy.idle_w) * image_ms)
    assert energy.half_width_mj > 0
    assert (energy.batch, energy.artifact, energy.machine) == (4, "0", "m")
    assert fake.asked == [(JOB, 3.0)]
    assert not fake.is_open


def test_readings_that_average_over_the_time_before_are_left_out(monkeypatch):
    monkeypatch.setattr(power, "AVERAGED_S", 0.05)
    monkeypatch.setattr(power, "INTERVAL_S", 0.005)
    for count, is_enough in ((4, False), (20, True)):  # of readings; ten fall into that time
        readings = []

        def work(readings=readings, count=count):
            while len(readings) < count:
                time.sleep(0.001)

        assert bool(watched(lambda readings=readings: readings.append(1.0) or 1.0, work)[0]) is is_enough


def test_too_few_readings_give_no_energy(nvml):
    nvml(readings=0)
    with pytest.raises(DeviceError, match=r"too few power readings .*measure longer"):
        engine_energy(JOB, artifact="0", machine="m")


def test_a_reading_that_fails_ends_the_measurement(nvml):
    fake = nvml()
    with power_of_gpu() as read_w:
        fake.tells_power = False
        with pytest.raises(DeviceError, match="NVML tells no power of GPU 0: Not Supported"):
            watched(read_w, lambda: time.sleep(0.05))


@pytest.mark.parametrize(
    ("values", "message"),
    [({"driver": False}, "is the NVIDIA driver installed"), ({"tells_power": False}, "tells no power of GPU 0")],
)
def test_a_machine_without_a_gpu_that_tells_its_power_is_a_device_error(values, message, nvml):
    fake = nvml(**values)
    with pytest.raises(DeviceError, match=message), power_of_gpu():
        pass
    assert not fake.is_open


def test_without_the_package_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(MissingDependency, match=r"edgeres\[gpu\]"), power_of_gpu():
        pass


def test_engines_are_weighed_and_a_missing_energy_has_its_reason(tmp_path, monkeypatch, nvml):
    nvml()

    def weigh(job, **whose):
        if job.path.name == "dark.plan":
            raise DeviceError("NVML tells no power of GPU 0")
        return engine_energy(job, **whose)

    monkeypatch.setattr(power, "engine_energy", weigh)
    tasks = []
    for kind, name in ((Engine, "good.plan"), (Engine, "dark.plan"), (OnnxModel, "model.onnx")):
        path = tmp_path / name
        path.write_bytes(name.encode())
        tasks.append(Task(kind(path), Job(path=path, batch=1, threads=1), name))
    energies, reasons, doubts = power.energies_of(tasks, "m")
    assert [(one.artifact, one.machine) for one in energies] == [(tasks[0].model.sha256, "m")]
    assert reasons == ["dark.plan: no energy: NVML tells no power of GPU 0"]
    assert doubts == []


def test_a_gpu_at_work_at_rest_gives_a_doubt_and_no_energy(tmp_path, nvml):
    nvml(idle_mw=248_000)
    (tmp_path / "a.plan").write_bytes(b"a")
    task = Task(Engine(tmp_path / "a.plan"), JOB, "a.plan")
    energies, reasons, (doubt,) = power.energies_of([task], "m")
    assert (energies, reasons) == ([], [])
    assert re.match(r"a.plan: no energy: power at rest, 24\d\.\d\d W, is not clearly below that under load", doubt)
