"""Power of a local NVIDIA GPU by NVML, and the energy of an image by the formula that boards use too.

    energy of an image = (mean power under load - mean power at rest) * time of an image

NVML tells the power of the whole card, memory included and the host not; from Ampere on it is an average over the last
second, so what the first second of a window says belongs to the time before it and is left out.

Source: NVML API reference, nvmlDeviceGetPowerUsage. Tested with a fake NVML; never run on hardware so far.
"""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from edgeres.bench.agent.figures import LEAST_SAMPLES, half_width
from edgeres.bench.measure import Turn
from edgeres.bench.session import Worker
from edgeres.bench.tasks import Task
from edgeres.bench.worker import Job
from edgeres.core.artifacts import Engine
from edgeres.core.errors import DeviceError, MissingDependency, require
from edgeres.core.metrics import Energy

AVERAGED_S = 1.0  # what a reading averages over, from Ampere on
_INTERVAL_S = 0.05
IDLE_S, LOAD_S = 5.0, 10.0  # as on a board
_MOST_CALLS = 10_000_000  # the time decides
_SOURCE = "NVML, the whole card without its host"


@dataclass
class Meter:
    """Readings of one GPU: `read` gives W. `settle_s` is left out at the start of every window."""

    read: Callable[[], float]
    settle_s: float = AVERAGED_S
    interval_s: float = _INTERVAL_S

    def watch(self, work: Callable[[], None]) -> list[float]:
        """Watts, one reading after the other, while `work` runs."""
        found: list[float] = []
        done, failed = threading.Event(), list[Exception]()

        def sample() -> None:
            try:
                while not done.wait(self.interval_s):
                    found.append(self.read())
            except DeviceError as err:
                failed.append(err)

        thread = threading.Thread(target=sample, daemon=True)
        thread.start()
        try:
            work()
        finally:
            done.set()
            thread.join()
        if failed:
            raise failed[0]
        return found[math.ceil(self.settle_s / self.interval_s) :]


class Load(NamedTuple):
    """What ran under load: `calls` of `batch` images each, in `seconds`."""

    calls: int
    seconds: float
    batch: int

    @property
    def image_ms(self) -> float:
        """Time of one image."""
        return 1000 * self.seconds / self.calls / self.batch


@contextmanager
def nvml_meter(index: int = 0) -> Iterator[Meter]:
    """The meter of a GPU of this machine, by its place in NVML's list.

    Raises MissingDependency without nvidia-ml-py, DeviceError if this GPU tells no power (a Jetson's does not).
    """
    nvml = require("pynvml", "gpu")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as err:
        raise DeviceError(f"NVML cannot be started here: {err}; is the NVIDIA driver installed?") from err
    try:
        meter = Meter(lambda: _watts(nvml, index))
        meter.read()
        yield meter
    finally:
        nvml.nvmlShutdown()


def energies_of(tasks: Sequence[Task], machine: str) -> tuple[list[Energy], list[str]]:
    """Energy of an image of every engine among `tasks`, and why there is none of others."""
    found: list[Energy] = []
    reasons = []
    for task in (task for task in tasks if isinstance(task.model, Engine)):
        sha256 = task.model.sha256
        try:
            found.append(engine_energy(task.job, idle_s=IDLE_S, load_s=LOAD_S, artifact=sha256, machine=machine))
        except (MissingDependency, DeviceError) as err:
            reasons.append(f"{task.name}: no energy: {err}")
    return found, reasons


def engine_energy(job: Job, *, idle_s: float, load_s: float, artifact: str, machine: str) -> Energy:
    """Energy of an image of the engine in `job`: loaded and warm, at rest for `idle_s`, then busy for `load_s`.

    A run of its own, since reading the power costs time. Raises as `nvml_meter` and `energy_of` do, and StageError if
    the engine cannot be loaded.
    """
    with nvml_meter() as meter, Worker(job) as worker:

        def run() -> Load:
            start = time.perf_counter()
            calls = len(worker.measure(Turn(seconds=load_s, least=1, most=_MOST_CALLS)).samples_ms)
            return Load(calls, time.perf_counter() - start, job.batch)

        return energy_of(meter, run, idle_s=idle_s, artifact=artifact, machine=machine)


def energy_of(meter: Meter, run: Callable[[], Load], *, idle_s: float, artifact: str, machine: str) -> Energy:
    """Energy of an image in mJ: at rest for `idle_s`, then while `run` keeps the GPU busy, which it times itself.

    Raises DeviceError with too few readings for an interval.
    """
    idle_w = meter.watch(lambda: time.sleep(idle_s))
    done: list[Load] = []
    load_w = meter.watch(lambda: done.append(run()))
    if min(len(idle_w), len(load_w)) < LEAST_SAMPLES:
        raise DeviceError(
            f"too few power readings for an energy: {len(idle_w)} at rest, {len(load_w)} under load, {LEAST_SAMPLES} of"
            " each are needed; measure longer"
        )
    image_ms = done[0].image_ms
    return Energy(
        mj_per_image=(statistics.mean(load_w) - statistics.mean(idle_w)) * image_ms,
        half_width_mj=math.hypot(half_width(load_w), half_width(idle_w)) * image_ms,
        load_w=statistics.mean(load_w),
        idle_w=statistics.mean(idle_w),
        load_samples=len(load_w),
        idle_samples=len(idle_w),
        batch=done[0].batch,
        source=_SOURCE,
        is_input=True,
        is_partial=False,
        artifact=artifact,
        machine=machine,
    )


def _watts(nvml: Any, index: int) -> float:
    try:
        return float(nvml.nvmlDeviceGetPowerUsage(nvml.nvmlDeviceGetHandleByIndex(index))) / 1000
    except nvml.NVMLError as err:
        raise DeviceError(f"NVML tells no power of GPU {index}: {err}") from err
