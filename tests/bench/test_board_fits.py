"""What is refused or doubted before anything is sent; the boards here are what a fake agent found."""

from types import SimpleNamespace

import onnx
import pytest
from onnx import helper

from edgeres.bench.board_facts import check_opset, check_power_mode, without_int8
from edgeres.core.errors import DeviceError, InputError

NANO = {"model": "NVIDIA Jetson Nano Developer Kit", "packages": {"libnvinfer-bin": "8.2.1-1+cuda10.2"}}
ORIN = {"model": "NVIDIA Jetson Orin NX 16GB", "packages": {"libnvinfer-bin": "10.3.0.30-1+cuda12.5"}}
XAVIER = {"model": "NVIDIA Jetson Xavier NX", "packages": {"libnvinfer-bin": "8.5.2-1+cuda11.4"}}


@pytest.fixture
def session_of(found_of):
    return lambda found: SimpleNamespace(board=SimpleNamespace(name="desk"), found=found_of(**found))


def model_of(opset, precision="fp32"):
    graph = helper.make_graph([], "g", [], [])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("x", 99), helper.make_opsetid("", opset)])
    return SimpleNamespace(path="m.onnx", proto=proto, precision=precision)


@pytest.mark.parametrize(
    ("found", "opset", "precision", "said"),
    [
        (NANO, 17, "fp32", r"has opset 17, TensorRT 8\.2\.1 there reads up to 13; export it so: .* --opset 13$"),
        (
            NANO,
            17,
            "int8",
            r"quantize again from a float file of: .*--opset 13 \(INT8 itself needs no more than 13\)$",
        ),
        (NANO, 19, "int8+fp16", r"--opset 13, with --profile tensorrt: float16 scales need opset 19$"),
        (XAVIER, 19, "int8+fp16", r"TensorRT 8\.5\.2 .*--opset 17, with --profile tensorrt"),
        (ORIN, 21, "fp32", r"TensorRT 10\.3\.0\.30 there reads up to 20; export it so: .* --opset 20$"),
    ],
)
def test_an_opset_the_board_does_not_read_is_refused_with_the_way_there(session_of, found, opset, precision, said):
    with pytest.raises(DeviceError, match=rf"^desk: m\.onnx .*{said}"):
        check_opset(session_of(found), model_of(opset, precision))


@pytest.mark.parametrize(("found", "opset"), [(NANO, 13), (ORIN, 19), ({"packages": {}, "model": None}, 21)])
def test_what_the_board_reads_or_does_not_tell_is_let_through(session_of, found, opset):
    check_opset(session_of(found), model_of(opset))


def test_int8_on_a_gpu_without_it_is_no_figure_of_int8(session_of):
    (warning,) = without_int8(session_of(NANO), model_of(13, "int8"))
    assert warning.startswith("Jetson Nano (sm53) has no INT8: quantizing gains nothing there")
    assert warning.endswith("take float16: edgeres export CHECKPOINT --half")


@pytest.mark.parametrize(("found", "precision"), [(NANO, "fp16"), (ORIN, "int8"), ({"model": "unknown"}, "int8")])
def test_without_a_known_lack_nothing_is_said_about_int8(session_of, found, precision):
    assert without_int8(session_of(found), model_of(13, precision)) == []


def test_a_power_mode_is_looked_up_in_the_boards_own_list(session_of):
    session = session_of({**ORIN, "power_modes": {"25W": 1, "15W": 0}})
    with pytest.raises(InputError, match=r"^--power-mode 99W: desk has no such mode; it has: 15W \(0\), 25W \(1\)$"):
        check_power_mode(session, "99W")
    check_power_mode(session, "15W")
    check_power_mode(session, "1")
    check_power_mode(session_of({**ORIN, "power_modes": {}}), "99W")


def test_a_custom_domains_version_is_no_opset(session_of):
    proto = model_of(13).proto
    assert [one.version for one in proto.opset_import] == [99, 13]
    assert isinstance(proto, onnx.ModelProto)
    check_opset(session_of(NANO), model_of(13))
