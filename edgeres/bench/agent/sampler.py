"""tegrastats beside a measurement: every line with the second it came at.

To a plain user many releases print no clock of the GPU, so what the kernel says to everybody is read with every line:
the clock of devfreq, /sys/class/devfreq/17000000.gpu/cur_freq, and the temperature of a thermal zone.
"""

import threading
import time
from typing import NamedTuple

from . import detect, process
from .tegrastats import DamagedLine, Reading, reading_from, total_power


class Sample(NamedTuple):
    """A reading, the monotonic second at which its line arrived, and what the kernel said then, None if nothing."""

    at_s: "float"
    reading: "Reading"
    devfreq_mhz: "int | None" = None
    zone_c: "float | None" = None


class Sampler:
    """Runs tegrastats while the block runs; `samples` may be read when it has ended.

    A line that cannot be read is counted and never guessed at. Where there is no tegrastats there are no samples.
    """

    def __init__(self, path: "str | None", interval_ms: "int") -> "None":
        self.samples = []  # type: list[Sample]
        self.damaged = 0
        self._arguments = [path, "--interval", str(interval_ms)] if path else []
        self._gpu, self._zones = detect.gpu_folder(), detect.thermal_zones()

    def __enter__(self) -> "Sampler":
        if self._arguments:
            self._child = process.start(self._arguments)
            self._thread = threading.Thread(target=self._collect, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *exc: "object") -> "None":
        if self._arguments:
            process.kill(self._child)
            self._thread.join(10.0)
            if self._child.stdout is not None and not self._thread.is_alive():
                self._child.stdout.close()

    def between(self, start_s: "float", end_s: "float") -> "list[Sample]":
        """The samples whose line came in that time."""
        return [sample for sample in self.samples if start_s <= sample.at_s <= end_s]

    def _collect(self) -> "None":
        assert self._child.stdout is not None
        for line in self._child.stdout:
            try:
                reading = reading_from(line)
            except DamagedLine:
                self.damaged += 1
                continue
            mhz = detect.read_mhz(self._gpu / "cur_freq") if self._gpu else None
            temperatures = (detect.read_c(zone) for zone in self._zones)
            celsius = next((value for value in temperatures if value is not None), None)
            self.samples.append(Sample(time.monotonic(), reading, mhz, celsius))


def powers_w(samples: "list[Sample]") -> "list[float]":
    """Total power of each sample that has one."""
    totals = [total_power(sample.reading) for sample in samples]
    return [total.mw / 1000.0 for total in totals if total is not None]


def gpu_clocks(samples: "list[Sample]") -> "tuple[str | None, list[int]]":
    """Who said the GPU's clock, and the MHz of its fastest part in each sample that has one; the two are never mixed.

    tegrastats where it prints the clock, otherwise devfreq, otherwise None.
    """
    printed = [max(sample.reading.gpu_mhz) for sample in samples if sample.reading.gpu_mhz]
    if printed:
        return "tegrastats", printed
    read = [sample.devfreq_mhz for sample in samples if sample.devfreq_mhz is not None]
    return ("devfreq", read) if read else (None, [])


def temperatures_c(samples: "list[Sample]") -> "tuple[str | None, list[float]]":
    """Who said the temperature, and the degrees C of each sample that has one; the two are never mixed.

    tegrastats where it prints one, otherwise the thermal zone, otherwise None. Of the junction (tj) where the board
    names it, otherwise of the GPU.
    """
    named = [{name.lower(): value for name, value in one.reading.temperature_c.items()} for one in samples]
    printed = [one.get("tj", one.get("gpu", 0.0)) for one in named if "tj" in one or "gpu" in one]
    if printed:
        return "tegrastats", printed
    read = [sample.zone_c for sample in samples if sample.zone_c is not None]
    return ("thermal zone", read) if read else (None, [])
