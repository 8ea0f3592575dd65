import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeres.bench.agent.trtexec import (
    DamagedOutput,
    build_arguments,
    log_from,
    measure_arguments,
    options_from,
    times_from,
    version_from,
)

DATA = Path(__file__).parent / "data"
V82 = {"onnx", "int8", "fp16", "saveEngine", "loadEngine", "buildOnly", "noDataTransfers", "useCudaGraph", "best"}
V103 = {*V82 - {"buildOnly"}, "stronglyTyped", "skipInference", "profilingVerbosity", "useSpinWait"}
V111 = V103 - {"int8", "fp16", "best"}


def text_of(name):
    return (DATA / f"trtexec_{name}").read_text()


@pytest.mark.parametrize(
    ("name", "version", "gpu"),
    [
        ("synthetic_8.2.txt", "8.2.1", "NVIDIA Tegra X1"),
        ("synthetic_8.6.txt", "8.6.2", "Orin"),
        ("synthetic_10.16.txt", "10.16.2", "Orin"),
        ("synthetic_11.1.txt", "11.1.0", "NVIDIA Test GPU"),
    ],
)
def test_what_every_version_says_is_read(name, version, gpu):
    log = log_from(text_of(name))
    assert (log.tensorrt, log.status, log.facts["gpu"]) == (version, "PASSED", gpu)


def test_a_failed_run_says_why():
    good, bad = text_of("synthetic_10.3.txt").split("## trt10.3 failed run")
    assert (log_from(good).status, log_from(good).facts["build_s"]) == ("PASSED", 40.1875)
    log = log_from(bad)
    assert log.status == "FAILED"
    assert "While parsing node number 3" in log.errors[0]


def test_a_warning_is_kept():
    assert "coefficient of variance = 2.31%" in log_from(text_of("synthetic_8.6.txt")).warnings[0]


def test_output_that_was_cut_off_has_no_status():
    assert log_from(text_of("synthetic_8.6.txt")[:400]).status == ""


def test_other_output_is_one_clear_line():
    with pytest.raises(DamagedOutput, match="no output of trtexec") as caught:
        log_from("bash: trtexec: command not found\n")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("number", "version"), [(8201, "8.2.1"), (8602, "8.6.2"), (100300, "10.3.0"), (101602, "10.16.2")]
)
def test_versions_are_numbered_two_ways(number, version):
    assert version_from(number) == version


@given(cut=st.integers(0, 2800), junk=st.text(max_size=6), skip=st.integers(0, 40))
def test_garbled_output_never_crashes_and_invents_no_number(cut, junk, skip):
    text = text_of("synthetic_8.6.txt")
    garbled = text[:cut] + junk + text[cut + skip :]
    try:
        log = log_from(garbled)
    except DamagedOutput:
        return
    seen = {float(number) for number in re.findall(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?", garbled)}
    assert {value for value in log.facts.values() if isinstance(value, float)} <= seen


def test_options_are_read_from_help():
    text = "  --onnx=<file>   ONNX model\n  --noDataTransfers, --useSpinWait\n  --[no]x  see --vc, or (--int8|--fp16)"
    assert {"onnx", "noDataTransfers", "useSpinWait", "vc", "int8", "fp16"} <= options_from(text)


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (V82, ["--int8", "--fp16", "--buildOnly"]),
        (V103, ["--stronglyTyped", "--profilingVerbosity=detailed", "--skipInference"]),
        (V111, ["--stronglyTyped", "--profilingVerbosity=detailed", "--skipInference"]),
    ],
)
def test_an_engine_is_built_with_what_this_trtexec_knows(known, expected):
    assert build_arguments(known, "int8+fp16", "m.onnx", "m.plan")[2:] == expected


def test_a_measurement_is_pinned_the_same_way_everywhere():
    pinned = {"--noDataTransfers", "--useCudaGraph", "--useSpinWait"}
    assert pinned <= set(measure_arguments(V103, "m.plan", 1000, 10))
    assert pinned <= set(measure_arguments(V111, "m.plan", 1000, 10))
    assert "--useSpinWait" not in measure_arguments(V82, "m.plan", 1000, 10)


def test_times_are_raw():
    assert [row["computeMs"] for row in times_from(text_of("times.json"))] == [0.82, 0.824, 0.828, 0.832, 0.836]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "[{}]", "[1]", '[{"computeMs": "x"}]', "null", text_of("times.json")[:99]]
)
def test_a_damaged_times_file_is_one_clear_line(text):
    with pytest.raises(DamagedOutput, match="times file of trtexec"):
        times_from(text)
