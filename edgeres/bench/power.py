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

from edgeres.bench.agent.figures import LEAST_SAMPLES, half_width, rest_problems
from edgeres.bench.measure import Turn
from edgeres.bench.session import Worker
from edgeres.bench.tasks import Task
from edgeres.bench.worker import Job
from edgeres.core.artifacts import Engine
from edgeres.core.errors import DeviceError, MissingDependency, require
from edgeres.core.metrics import Energy

AVERAGED_S = 1.0  # what a reading averages over, from Ampere on
INTERVAL_S = 0.05
IDLE_S, LOAD_S = 5.0, 10.0  # as on a board
_MOST_CALLS = 10_000_000  # the time decides
_SOURCE = "NVML, the whole card without its host"


class NotAtRest(DeviceError):
    """The power at rest is not clearly below that under load."""


def energies_of(tasks: Sequence[Task], machine: str) -> tuple[list[Energy], list[str], list[str]]:
    """Energy of an image of every engine among `tasks`, why there is none of others, and what of that is a doubt."""
    found: list[Energy] = []
    reasons, doubts = list[str](), list[str]()
    for task in (task for task in tasks if isinstance(task.model, Engine)):
        sha256 = task.model.sha256
        try:
            found.append(engine_energy(task.job, artifact=sha256, machine=machine))
        except (MissingDependency, DeviceError) as err:
            (doubts if isinstance(err, NotAtRest) else reasons).append(f"{task.name}: no energy: {err}")
    return found, reasons, doubts


def engine_energy(job: Job, *, artifact: str, machine: str) -> Energy:
    """Energy of an image of the engine in `job`: loaded and warm, at rest, then busy.

    A run of its own, since reading the power costs time. Raises as `power_of_gpu` does, DeviceError with too few
    readings for an interval, NotAtRest where those at rest are those under load, StageError if the engine cannot be
    loaded.
    """
    busy, calls = Turn(seconds=LOAD_S, least=1, most=_MOST_CALLS), list[int]()
    with power_of_gpu() as read_w, Worker(job) as worker:
        idle_w, _ = watched(read_w, lambda: time.sleep(IDLE_S))
        load_w, took_s = watched(read_w, lambda: calls.append(len(worker.measure(busy).samples_ms)))
    if min(len(idle_w), len(load_w)) < LEAST_SAMPLES:
        raise DeviceError(
            f"too few power readings for an energy: {len(idle_w)} at rest, {len(load_w)} under load, {LEAST_SAMPLES} of"
            " each are needed; measure longer"
        )
    rest_w, loaded_w = statistics.mean(idle_w), statistics.mean(load_w)
    half_w = math.hypot(half_width(load_w), half_width(idle_w))
    if problems := rest_problems(rest_w, loaded_w, half_w):
        raise NotAtRest(problems[0])
    image_ms = 1000 * took_s / calls[0] / job.batch
    return Energy(
        mj_per_image=(loaded_w - rest_w) * image_ms,
        half_width_mj=half_w * image_ms,
        load_w=loaded_w,
        idle_w=rest_w,
        load_samples=len(load_w),
        idle_samples=len(idle_w),
        batch=job.batch,
        source=_SOURCE,
        is_input=True,
        is_partial=False,
        artifact=artifact,
        machine=machine,
    )


@contextmanager
def power_of_gpu() -> Iterator[Callable[[], float]]:
    """Reads the power of this machine's first GPU in W.

    Raises MissingDependency without nvidia-ml-py, DeviceError if this GPU tells no power (a Jetson's does not).
    """
    nvml = require("pynvml", "gpu")

    def read_w() -> float:
        try:
            return float(nvml.nvmlDeviceGetPowerUsage(nvml.nvmlDeviceGetHandleByIndex(0))) / 1000
        except nvml.NVMLError as err:
            raise DeviceError(f"NVML tells no power of GPU 0: {err}") from err

    try:
        nvml.nvmlInit()
    except nvml.NVMLError as err:
        raise DeviceError(f"NVML cannot be started here: {err}; is the NVIDIA driver installed?") from err
    try:
        read_w()
        yield read_w
    finally:
        nvml.nvmlShutdown()


def watched(read_w: Callable[[], float], work: Callable[[], None]) -> tuple[list[float], float]:
    """(watts, one reading after the other while `work` runs, those of its first second left out; how long it took)."""
    found: list[float] = []
    done, failed = threading.Event(), list[Exception]()

    def sample() -> None:
        try:
            while not done.wait(INTERVAL_S):
                found.append(read_w())
        except DeviceError as err:
            failed.append(err)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    start_s = time.perf_counter()
    try:
        work()
    finally:
        took_s = time.perf_counter() - start_s
        done.set()
        thread.join()
    if failed:
        raise failed[0]
    return found[math.ceil(AVERAGED_S / INTERVAL_S) :], took_s
