"""What is said of a board; the boards are what a fake agent found."""

from types import SimpleNamespace

import pytest

from edgeres.bench.board_answers import BoardFound, JobDone
from edgeres.bench.board_facts import checks_of, facts_of, machine_of, release_of
from edgeres.bench.boards import Board

NANO = {
    "model": "NVIDIA Jetson Nano Developer Kit",
    "compatible": ["nvidia,jetson-nano"],
    "l4t": "32.7.1",
    "jetpack": "4.6.1",
    "packages": {"libnvinfer-bin": "8.2.1-1+cuda10.2"},
    "cuda": "10.2",
    "capability": None,
    "power_mode": {"name": "MAXN", "id": 0},
    "power_modes": {"MAXN": 0, "5W": 1},
    "gpu_clock": None,
    "fan": {},
    "trtexec": "/usr/src/tensorrt/bin/trtexec",
    "tegrastats": None,
    "python": "3.6.9",
}
ORIN = {**NANO, "model": "NVIDIA Jetson Orin NX 16GB", "packages": {"libnvinfer-bin": "10.3.0.30-1+cuda12.5"}}


def checks(found):
    return {check.name: check for check in checks_of(BoardFound.model_validate(found))}


def test_an_old_parser_and_a_gpu_without_int8_are_lines_of_the_doctor():
    found = checks(NANO)
    assert found["onnx"].detail == "TensorRT 8.2.1 reads opsets up to 13"
    assert found["onnx"].remedy.endswith("edgeres export CHECKPOINT --opset 13")
    assert (found["int8"].status, found["int8"].detail) == ("missing", "the GPU (sm53) has none")
    assert found["int8"].remedy.endswith("edgeres export CHECKPOINT --half")


def test_a_newer_board_needs_no_remedy():
    found = checks(ORIN)
    assert [(found[name].status, found[name].remedy) for name in ("onnx", "int8")] == [("ok", "")] * 2


def test_what_is_not_known_is_said_to_be_unknown():
    found = checks({**NANO, "model": "a box", "compatible": [], "packages": {}})
    assert found["onnx"].detail == "unknown which opsets TensorRT reads here"
    assert found["int8"].detail == "unknown: the board is not in the catalogue"


@pytest.mark.parametrize(("capability", "target"), [(None, "sm53"), ("8.7", "sm87")])
def test_the_architecture_is_the_drivers_otherwise_the_catalogues(capability, target):
    found = BoardFound.model_validate({**NANO, "capability": capability})
    assert (found.capability, found.target, found.tensorrt) == (capability, target, "8.2.1")


@pytest.mark.parametrize(
    ("version", "release"), [("10.3.0.30", "10.3.0"), ("8.2.1", "8.2.1"), (None, None), ("", None)]
)
def test_trtexec_and_the_binding_are_one_release(version, release):
    assert release_of(version) == release


def test_a_pc_is_called_no_jetson(found_of):
    pc = found_of(gpu="NVIDIA GeForce RTX 4090", capability="8.9", cuda="12.6", power_mode=None)
    found = {check.name: check for check in checks_of(pc)}
    assert found["board"].detail == "NVIDIA GeForce RTX 4090 (rtx-4090, sm89)"
    assert found["software"].detail.startswith("no Jetson, CUDA 12.6, TensorRT unknown until")
    session = SimpleNamespace(board=Board(name="desk", host="me@10.0.0.5"), agent=lambda kind: pc)
    told = "desk: NVIDIA GeForce RTX 4090, no Jetson, at 10.0.0.5"
    assert machine_of(facts_of(session, JobDone(restored=()))) == told
    session.board = Board(name="desk", host="me@10.0.0.6")  # under the same name, so no machine to be compared with
    assert machine_of(facts_of(session, JobDone(restored=()))) == told.replace("0.5", "0.6")


def test_an_l4t_of_no_known_jetpack_is_said():
    assert checks({**NANO, "l4t": "99.1", "jetpack": None})["software"].detail.startswith(
        "L4T 99.1, of no known JetPack, CUDA 10.2"
    )
