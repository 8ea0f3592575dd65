import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgeres.bench.agent.tegrastats import DamagedLine, reading_from, total_power

TEXT = (Path(__file__).parent / "data" / "tegrastats_synthetic.txt").read_text()
LINES = dict(re.findall(r"^## (\w+)\n(.+)$", TEXT, re.MULTILINE))


def numbers_of(reading):
    return [*reading.gpu_mhz, *reading.temperature_c.values(), *reading.power_mw.values()]


@pytest.mark.parametrize(
    ("name", "gpu", "power"),
    [
        ("nano_jp4", [921], (7312, "POM_5V_IN", True)),
        ("tx2_jp4", [1300], (10450, "VDD_IN", True)),
        ("xavier_nx_jp5", [1109], (13820, "VDD_IN", True)),
        ("agx_xavier_jp5", [1377], (18620, "sum of CPU + CV + GPU + SOC + SYS5V + VDDRQ", False)),
        ("agx_orin_jp6", [1300, 1300], (26755, "sum of VDD_CPU_CV + VDD_GPU_SOC + VIN_SYS_5V0", False)),
        ("orin_nano_jp6", [624], (11479, "VDD_IN", True)),
        ("agx_orin_jp7", [1300, 1300], (28907, "sum of VDD_CPU_CV + VDD_GPU_SOC + VIN_SYS_5V0", False)),
        ("thor_jp7", [1575, 1575, 1575], (84486, "VIN", True)),
        ("orin_nx_jp5_root", [765], (14915, "VDD_IN", True)),
        ("orin_nano_jp72_user", [], (13761, "VDD_IN", True)),
    ],
)
def test_every_grammar_gives_clock_and_total_power(name, gpu, power):
    reading = reading_from(LINES[name])
    assert reading.gpu_mhz == gpu
    assert total_power(reading)[:3] == power


def test_every_line_of_the_samples_is_covered():
    assert len(LINES) == 10


def test_rails_of_an_agx_xavier_are_not_its_temperatures():
    reading = reading_from(LINES["agx_xavier_jp5"])
    assert (reading.power_mw["GPU"], reading.temperature_c["GPU"]) == (9210, 44.0)


def test_a_sensor_that_is_off_and_an_unconnected_rail_are_left_out():
    reading = reading_from(LINES["agx_orin_jp6"])
    assert "CV0" not in reading.temperature_c
    assert "NC" not in reading.power_mw


def test_a_board_that_prints_no_power_has_none():
    line = re.sub(r" VDD_.*", "", LINES["tx2_jp4"])
    assert total_power(reading_from(line)) is None


def test_a_thor_without_root_is_a_partial_sum():
    line = re.sub(r" VIN_SYS_5V0.*", "", LINES["thor_jp7"])
    power = total_power(reading_from(line))
    assert (power.mw, power.is_input, power.is_partial) == (37900 + 15059, False, True)


@pytest.mark.parametrize("line", ["", "hello", "CPU [1%@2]", "\x00", LINES["nano_jp4"][9:], LINES["nano_jp4"] * 2])
def test_another_line_is_one_clear_sentence(line):
    with pytest.raises(DamagedLine, match=r"^(not a line of tegrastats|a rail is there twice)") as caught:
        reading_from(line)
    assert "\n" not in str(caught.value)


@given(name=st.sampled_from(sorted(LINES)), cut=st.integers(0, 700), junk=st.text(max_size=5), skip=st.integers(0, 20))
@example(name="agx_orin_jp6", cut=105, junk="", skip=4)  # two cores run into one: 23%@22010%
def test_a_garbled_line_never_crashes_and_invents_no_number(name, cut, junk, skip):
    line = LINES[name][:cut] + junk + LINES[name][cut + skip :]
    try:
        reading = reading_from(line)
    except DamagedLine:
        return
    seen = {float(text) for text in re.findall(r"-?\d+(?:\.\d+)?", line)}
    assert all(float(number) in seen or -float(number) in seen for number in numbers_of(reading))
