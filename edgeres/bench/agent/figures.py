"""From samples to figures: energy of an image with its uncertainty, and what makes a run invalid.

    energy of an image = (mean power under load - mean power at rest) * time of an image

Samples of power in a row are not independent, so each mean's uncertainty comes from the means of BLOCKS blocks.
Source: batch means, Law & Kelton, Simulation Modeling and Analysis, chapter 9. tegrastats prints whole mW: half a step
of every rail, for both means, is added to it, so that samples which never vary are not called exact. How far the sensor
itself is off is not in it.
"""

import math
import statistics

from .sampler import Sample, gpu_clocks, powers_w, temperatures_c
from .tegrastats import total_power

BLOCKS = 8
T_95 = 2.365  # two-sided 95 % quantile of Student's t with BLOCKS - 1 degrees of freedom
LEAST_SAMPLES = 2 * BLOCKS
STEP_W = 0.001  # in which tegrastats prints power
_LEAST_ADDED = 0.05  # of the power under load; what works one call after the other adds more to a board at rest
_DRIFT = 0.03  # of clock or latency between the first and the last quarter; a board at a fixed clock stays below 1 %
_DROP = 0.05  # a sample this far below the fastest clock under load: the clock moved


def energy(
    idle: "list[Sample]", load: "list[Sample]", times: "list[dict[str, float]]", batch: "int"
) -> "dict[str, object]":
    """Power at rest and under load in W, and mJ per image with the half-width of its 95 % interval.

    `step_w` is what tegrastats' steps alone add to the half-width of the power. Without enough samples it holds a
    `reason` instead. `times` are the queries of the loaded run itself.
    """
    rest_w, load_w = powers_w(idle), powers_w(load)
    if min(len(rest_w), len(load_w)) < LEAST_SAMPLES:
        return {
            "reason": f"too few power samples for an energy: {len(rest_w)} at rest, {len(load_w)} under load,"
            f" {LEAST_SAMPLES} of each are needed"
        }
    total = total_power(load[0].reading)
    assert total is not None
    image_ms = (times[-1]["endComputeMs"] - times[0]["startComputeMs"]) / len(times) / batch
    added_w = statistics.mean(load_w) - statistics.mean(rest_w)
    step_w = STEP_W * (total.source.count(" + ") + 1)  # half a step of each rail, at rest and under load
    half_w = math.hypot(half_width(load_w), half_width(rest_w)) + step_w
    return {
        "mj_per_image": added_w * image_ms,
        "mj_half_width": half_w * image_ms,
        "image_ms": image_ms,
        "step_w": step_w,
        "idle_w": statistics.mean(rest_w),
        "load_w": statistics.mean(load_w),
        "idle_samples": len(rest_w),
        "load_samples": len(load_w),
        "source": total.source,
        "is_input": total.is_input,
        "is_partial": total.is_partial,
    }


def rest_problems(rest_w: "float", load_w: "float", half_w: "float") -> "list[str]":
    """Whether power at rest is not clearly below that under load, their difference being known to `half_w`."""
    if load_w - rest_w > max(half_w, _LEAST_ADDED * load_w):
        return []
    why = f"power at rest, {rest_w:.2f} W, is not clearly below that under load, {load_w:.2f} W"
    return [f"{why}: did another program use it? stop it and run again"]


def half_width(values: "list[float]") -> "float":
    """Of the mean's 95 % interval, from BLOCKS blocks in a row; at least LEAST_SAMPLES values."""
    size = len(values) // BLOCKS
    means = [statistics.mean(values[index * size : (index + 1) * size]) for index in range(BLOCKS)]
    return T_95 * statistics.stdev(means) / math.sqrt(BLOCKS)


def percentile(values: "list[float]", q: "float") -> "float":
    """The q-th percentile by linear interpolation, q in [0, 100]."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * q / 100.0
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def heat(idle: "list[Sample]", load: "list[Sample]") -> "dict[str, object]":
    """Temperatures in degrees C before, during and at the end, and the GPU's clocks in MHz under load.

    `samples` were seen under load; `clock_source` and `temperature_source` said the figures; `clock_unknown` says why
    there is no clock, or is None.
    """
    source, clocks = gpu_clocks(load)
    thermometer, during = temperatures_c(load)
    at_rest, before = temperatures_c(idle)
    return {
        "before_c": max(before) if before and thermometer in (None, at_rest) else None,
        "highest_c": max(during) if during else None,
        "after_c": during[-1] if during else None,
        "temperature_source": thermometer,
        "gpu_mhz": {"lowest": min(clocks), "median": statistics.median(clocks), "highest": max(clocks)}
        if clocks
        else None,
        "samples": len(load),
        "clock_source": source,
        "clock_unknown": None if clocks else _clock_unknown(idle, load),
    }


def _clock_unknown(idle: "list[Sample]", load: "list[Sample]") -> "str":
    if load:
        return "neither tegrastats nor devfreq says the GPU's clock to this user; log in as root"
    why = "tegrastats ended" if idle else "tegrastats said nothing"
    return f"no sample of tegrastats came under load: a run too short, {why}, or trtexec did not say when it timed"


def validity(problems: "list[str]", seen: "dict[str, object]") -> "bool | None":
    """Whether the run can be trusted; None: nothing speaks against it, but its heat, `seen`, has no GPU clock."""
    if problems:
        return False
    return True if seen.get("gpu_mhz") else None


def clock_problems(load: "list[Sample]") -> "list[str]":
    """What the GPU's clock under load says against the run."""
    _, clocks = gpu_clocks(load)
    return clock_moved(min(clocks), max(clocks)) if clocks else []


def clock_moved(lowest: "float", highest: "float") -> "list[str]":
    """Whether the GPU's clock, between these MHz under load, did not hold still."""
    if lowest < highest * (1 - _DROP):
        return [f"the GPU's clock moved between {lowest} and {highest} MHz under load; lock it: sudo jetson_clocks"]
    return []


def latency_problems(samples_ms: "list[float]") -> "list[str]":
    """Whether the calls became slower or faster while they were counted."""
    quarter = len(samples_ms) // 4
    if quarter == 0:
        return []
    first, last = statistics.median(samples_ms[:quarter]), statistics.median(samples_ms[-quarter:])
    change = last / first - 1 if first else 0.0
    if abs(change) <= _DRIFT:
        return []
    return ["latency drifted by %+.1f %% within the run; lock the clocks and let the board cool" % (100 * change)]
