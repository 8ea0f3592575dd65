from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from onnx import numpy_helper

from edgeres.core.artifacts import OnnxModel
from edgeres.core.errors import InputError
from edgeres.core.records.scales import scale_table_from
from edgeres.data import Split, dataset_from
from edgeres.quantize.calibrate import CalibrateConfig, calibrate
from edgeres.quantize.calibrators import CALIBRATORS
from edgeres.quantize.stage import QuantizeConfig, quantize


def with_tensor(source: OnnxModel, prefix: str, change: Callable[[str, np.ndarray], np.ndarray]) -> OnnxModel:
    """The model with `change(name, value)` in place of the initializers whose names start with `prefix`."""
    model = source.proto
    for tensor in model.graph.initializer:
        if tensor.name.startswith(prefix):
            value = change(tensor.name, numpy_helper.to_array(tensor))
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), tensor.name))
    source.path.write_bytes(model.SerializeToString())
    return OnnxModel(source.path)


def test_the_table_names_its_model_its_images_and_every_tensor(onnx_of, tmp_path):
    source = onnx_of("resnet8")
    result = calibrate(source, CalibrateConfig(data="digits", images=64), tmp_path / "out")
    table = scale_table_from(result.output.path)
    assert table.model_sha256 == source.sha256
    assert (table.kind, table.dataset, table.split, table.n, table.seed) == (
        "scales",
        "digits",
        "train",
        64,
        0,
    )
    assert table.methods == tuple(CALIBRATORS)
    assert "layer2.0.relu_1" in table.tensors
    for scale in table.tensors.values():
        assert scale.amax["minmax"] == max(scale.maximum, -scale.minimum)
        assert all(0 < amax <= scale.amax["minmax"] for amax in scale.amax.values())
    assert any("500 or more are usual" in warning for warning in result.report.warnings)


def test_the_val_split_is_never_read(onnx_of, tmp_path, monkeypatch):
    read = []
    fitted = Split.fitted

    def watched(self: Split, index: int, spec) -> np.ndarray:
        read.append(self.ids[index])
        return fitted(self, index, spec)

    monkeypatch.setattr(Split, "fitted", watched)
    calibrate(onnx_of("resnet8"), CalibrateConfig(data="digits", images=100), tmp_path / "out")
    assert len(set(read)) == 100
    assert not set(read) & set(dataset_from("digits").val.ids)


def test_the_same_seed_gives_the_same_file_and_another_seed_other_images(onnx_of, tmp_path):
    source = onnx_of("resnet8")
    first, again, other = (
        calibrate(source, CalibrateConfig(data="digits", images=64, seed=seed), tmp_path / name).output.path
        for seed, name in ((0, "first"), (0, "again"), (1, "other"))
    )
    assert first.read_bytes() == again.read_bytes()
    assert scale_table_from(first).ids_sha256 != scale_table_from(other).ids_sha256


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"methods": ("minmax", "entropi")}, "unknown calibrator 'entropi'; did you mean entropy"),
        ({"trt_cache": "11.0"}, "TensorRT 11.0 reads no calibration cache of this kind"),
        ({"trt_cache": "8.6", "methods": ("minmax",)}, "--trt-method mse is not among --methods minmax"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(values, message, onnx_of, tmp_path):
    with pytest.raises(InputError, match=message):
        calibrate(onnx_of("resnet8"), CalibrateConfig(data="digits", **values), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_quantized_model_is_refused(onnx_of, tmp_path):
    source = onnx_of("resnet8")
    scales = calibrate(source, CalibrateConfig(data="digits", images=64), tmp_path / "scales").output.path
    done = quantize(source, QuantizeConfig(scales=scales, effort="quick"), tmp_path / "out").output
    with pytest.raises(InputError, match="quantized already"):
        calibrate(done, CalibrateConfig(data="digits"), tmp_path / "again")
    with pytest.raises(InputError, match="quantized already"):
        quantize(done, QuantizeConfig(scales=scales, effort="quick"), tmp_path / "again")


def test_a_dead_tensor_is_named(onnx_of, tmp_path):
    source = onnx_of("resnet8")
    model = source.proto
    for tensor in model.graph.initializer:
        if tensor.name.startswith("layer1.0.conv1."):
            tensor.raw_data = bytes(len(tensor.raw_data))
    source.path.write_bytes(model.SerializeToString())
    result = calibrate(type(source)(source.path), CalibrateConfig(data="digits", images=64), tmp_path / "out")
    assert "always zero on the calibration images: layer1.0.relu" in result.report.warnings


def test_a_constant_tensor_is_refused_by_name(onnx_of, tmp_path):
    source = with_tensor(onnx_of("resnet8"), "fc.", lambda name, value: np.full_like(value, name.endswith("bias")))
    with pytest.raises(InputError, match=r"tensor 'logits' is 1 for every image; check the images") as caught:
        calibrate(source, CalibrateConfig(data="digits", images=64, trt_cache="8.6"), tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_weights_that_are_no_numbers_are_refused_by_the_tensor_they_reach(onnx_of, tmp_path):
    source = with_tensor(onnx_of("resnet8"), "layer2.0.conv1.bias", lambda _, value: value * np.nan)
    with pytest.raises(InputError, match=r"tensor 'layer2.0.[\w.]+' has NaN values"):
        calibrate(source, CalibrateConfig(data="digits", images=64), tmp_path / "out")


def test_dead_channels_are_counted_by_layer(onnx_of, tmp_path):
    def without_two_channels(_: str, value: np.ndarray) -> np.ndarray:
        return np.where(np.arange(len(value)).reshape(-1, *[1] * (value.ndim - 1)) < 2, 0, value).astype(value.dtype)

    source = with_tensor(onnx_of("resnet8"), "layer1.0.conv1.", without_two_channels)
    result = calibrate(source, CalibrateConfig(data="digits", images=64), tmp_path / "out")
    warning = next(text for text in result.report.warnings if "channels that were zero" in text)
    dead = re.search(r"layer1\.0\.relu (\d+)", warning)
    assert dead is not None
    assert int(dead[1]) >= 2


def test_a_cache_for_tensorrt_covers_every_computed_tensor(onnx_of, tmp_path):
    source = onnx_of("resnet8")
    config = CalibrateConfig(data="digits", images=64, trt_cache="8.6.1")
    result = calibrate(source, config, tmp_path / "out")
    lines = (tmp_path / "out" / "scales.json.cache").read_text().splitlines()
    names = {line.rpartition(": ")[0] for line in lines[1:]}
    assert lines[0] == "TRT-8601-EntropyCalibration2"
    assert names == {"images", *(output for node in source.proto.graph.node for output in node.output)}
    assert any("never run on hardware" in note for note in result.report.notes)


def test_a_cache_changes_no_number_of_the_table(onnx_of, tmp_path):
    source = onnx_of("resnet8")
    plain, more = (
        scale_table_from(
            calibrate(source, CalibrateConfig(data="digits", images=64, trt_cache=version), out).output.path
        )
        for version, out in ((None, tmp_path / "plain"), ("8.6", tmp_path / "more"))
    )
    assert {name: more.tensors[name] for name in plain.tensors} == plain.tensors
    assert len(more.tensors) > len(plain.tensors)


def test_images_of_val_are_refused(onnx_of, tmp_path, monkeypatch):
    digits = dataset_from("digits")
    leaked = replace(digits, train=digits.val.named("train"))
    monkeypatch.setattr("edgeres.quantize.calibrate.dataset_for", lambda *_, **__: leaked)
    with pytest.raises(InputError, match="64 of 64 calibration images are in val too") as caught:
        calibrate(onnx_of("resnet8"), CalibrateConfig(data="digits", images=64), tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_too_few_images_are_refused(onnx_of, tmp_path, monkeypatch):
    digits = dataset_from("digits")
    monkeypatch.setattr(
        "edgeres.quantize.calibrate.dataset_for", lambda *_, **__: replace(digits, train=digits.train.subset(range(20)))
    )
    with pytest.raises(InputError, match="digits has 20 training images, calibration needs 32"):
        calibrate(onnx_of("resnet8"), CalibrateConfig(data="digits"), tmp_path / "out")


def test_all_images_are_taken_if_there_are_fewer_than_asked_for(onnx_of, tmp_path):
    result = calibrate(onnx_of("resnet8"), CalibrateConfig(data="digits", images=5000), tmp_path / "out")
    assert scale_table_from(result.output.path).n == 1348
