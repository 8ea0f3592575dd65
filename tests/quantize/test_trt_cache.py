from __future__ import annotations

import struct

import pytest

from edgeres.core.errors import InputError
from edgeres.core.records.scales import ScaleTable, TensorScale
from edgeres.quantize.trt_cache import trt_cache_from, version_number


def table_of(**amax: float) -> ScaleTable:
    tensors = {name: TensorScale(minimum=0, maximum=1, zeros=0, amax={"mse": value}) for name, value in amax.items()}
    return ScaleTable(
        model_sha256="", dataset="", split="train", n=1, seed=0, ids_sha256="", methods=("mse",), tensors=tensors
    )


def test_the_file_is_the_one_nvidia_shows():
    scale = struct.unpack(">f", bytes.fromhex("3c008912"))[0]  # "data: 3c008912" of sampleINT8, amax about 1
    text = trt_cache_from(table_of(data=scale * 127), "mse", "8.0.0")
    assert text == "TRT-8000-EntropyCalibration2\ndata: 3c008912\n"


def test_every_scale_reads_back_as_float32():
    amax = {"a": 1.0, "b": 127.0, "c": 3.3e-4}
    lines = trt_cache_from(table_of(**amax), "mse", "10.3.0").splitlines()[1:]
    read = {line.split(": ")[0]: struct.unpack(">f", bytes.fromhex(line.split(": ")[1]))[0] for line in lines}
    assert read == {name: pytest.approx(value / 127, rel=1e-6) for name, value in amax.items()}


def test_a_dead_tensor_gets_a_positive_scale():
    assert trt_cache_from(table_of(dead=0.0), "mse", "8.6").endswith(f"dead: {struct.pack('>f', 1 / 127).hex()}\n")


@pytest.mark.parametrize(("version", "number"), [("8.6.1", 8601), ("8.5", 8500), ("10.3.0", 100300), ("8.6.1.6", 8601)])
def test_versions_are_numbered_as_tensorrt_numbers_them(version, number):
    assert version_number(version) == number


@pytest.mark.parametrize(
    ("version", "message"),
    [("eight", "'eight' is not a version of TensorRT"), ("11.0", "reads no calibration cache"), ("7.1", "reads no")],
)
def test_versions_without_such_caches_are_refused(version, message):
    with pytest.raises(InputError, match=message):
        trt_cache_from(table_of(a=1.0), "mse", version)


def test_a_method_the_table_lacks_and_a_name_that_breaks_the_file_are_refused():
    with pytest.raises(InputError, match=r"no method 'entropy' \(it has: mse\)"):
        trt_cache_from(table_of(a=1.0), "entropy", "8.6")
    with pytest.raises(InputError, match="cannot stand in a calibration cache"):
        trt_cache_from(table_of(**{"a: b": 1.0}), "mse", "8.6")
