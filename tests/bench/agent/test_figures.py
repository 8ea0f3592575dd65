"""The agent's figures, from samples that are made up."""

import pytest

from edgeres.bench.agent import figures
from edgeres.bench.agent.sampler import Sample
from edgeres.bench.agent.tegrastats import reading_from

HEAD = "RAM 1841/3956MB (lfb 1x1MB) CPU [41%@1479,off]"
TIMES = [{"startComputeMs": 2.0 * call, "endComputeMs": 2.0 * call + 2.0} for call in range(100)]


def samples_of(texts):
    return [Sample(float(place), reading_from(f"{HEAD} {text}")) for place, text in enumerate(texts)]


def test_samples_that_never_vary_are_not_called_exact():
    idle, load = samples_of(["VDD_IN 5000mW/5000mW"] * 16), samples_of(["VDD_IN 9000mW/9000mW"] * 16)
    found = figures.energy(idle, load, TIMES, 1)
    assert found["mj_per_image"] == pytest.approx(8.0)
    assert found["step_w"] == figures.STEP_W
    assert found["mj_half_width"] == pytest.approx(0.001 * 2.0)


def test_every_rail_of_a_sum_has_its_step():
    rails = "VDD_GPU_SOC {0}mW/{0}mW VDD_CPU_CV {0}mW/{0}mW VIN_SYS_5V0 {0}mW/{0}mW"
    idle, load = samples_of([rails.format(1000)] * 16), samples_of([rails.format(3000)] * 16)
    found = figures.energy(idle, load, TIMES, 1)
    assert found["step_w"] == pytest.approx(3 * figures.STEP_W)
    assert found["mj_half_width"] == pytest.approx(3 * 0.001 * 2.0)


def test_the_step_is_added_to_what_the_samples_vary():
    idle = samples_of(["VDD_IN 5000mW/5000mW"] * 16)
    load = samples_of([f"VDD_IN {9000 + 100 * (place % 5)}mW/9000mW" for place in range(40)])
    found = figures.energy(idle, load, TIMES, 1)
    varied = figures.half_width([9.0 + 0.1 * (place % 5) for place in range(40)])
    assert found["mj_half_width"] == pytest.approx((varied + 0.001) * 2.0)


@pytest.mark.parametrize(
    ("idle", "load", "why"),
    [
        (1, [], "no sample of tegrastats came under load: a run too short, tegrastats ended, or trtexec did"),
        (0, [], "no sample of tegrastats came under load: a run too short, tegrastats said nothing, or"),
        (1, ["GR3D_FREQ 97% GPU@39.5C"], "neither tegrastats nor devfreq says the GPU's clock to this user; log in"),
    ],
)
def test_a_clock_that_was_not_seen_says_why_and_leaves_validity_open(idle, load, why):
    found = figures.heat(samples_of(["GPU@39C"] * idle), samples_of(load))
    assert found["gpu_mhz"] is None
    assert found["clock_unknown"].startswith(why)
    assert found["samples"] == len(load)
    assert figures.validity([], found) is None
    assert figures.validity(["it throttled"], found) is False


def test_devfreq_says_the_clock_that_tegrastats_does_not():
    seen = zip(samples_of(["GPU@39C"] * 3), (624, 400, 624), strict=True)
    plain = [sample._replace(devfreq_mhz=mhz) for sample, mhz in seen]
    found = figures.heat([], plain)
    assert (found["clock_source"], found["clock_unknown"], found["gpu_mhz"]["lowest"]) == ("devfreq", None, 400)
    assert figures.clock_problems(plain)[0].startswith("the GPU's clock moved between 400 and 624 MHz")


def test_temperatures_of_two_sources_are_never_compared():
    printed, silent = samples_of(["GPU@39C", "GR3D_FREQ 97%@921"])
    silent = silent._replace(zone_c=61.5)
    found = figures.heat([printed], [silent])
    assert (found["temperature_source"], found["before_c"], found["highest_c"]) == ("thermal zone", None, 61.5)
    assert figures.heat([printed], [silent, printed])["highest_c"] == 39


def test_clocks_of_two_sources_are_never_mixed():
    printed, silent = samples_of(["GR3D_FREQ 97%@921 GPU@39C", "GPU@39C"])
    found = figures.heat([], [printed._replace(devfreq_mhz=300), silent._replace(devfreq_mhz=300)])
    assert (found["clock_source"], found["gpu_mhz"]["lowest"]) == ("tegrastats", 921)


def test_a_clock_that_was_seen_makes_a_run_valid_where_nothing_speaks_against_it():
    found = figures.heat([], samples_of(["GR3D_FREQ 97%@921 GPU@39.5C"] * 2))
    assert (found["clock_unknown"], found["samples"], found["gpu_mhz"]["lowest"]) == (None, 2, 921)
    assert figures.validity([], found) is True
