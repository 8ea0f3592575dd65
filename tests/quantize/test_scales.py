from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from edgeres.core.errors import InputError
from edgeres.data import Split, dataset_from
from edgeres.quantize.calibrators import CALIBRATORS
from edgeres.quantize.scales import CalibrateConfig, calibrate, histograms_of
from edgeres.quantize.stage import QuantizeConfig, quantize, scale_table_from


def images_of(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, 1, 8, 8), dtype=np.float32)


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
    batches = Split.batches

    def watched(self: Split, spec, batch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        read.extend(self.ids)
        return batches(self, spec, batch)

    monkeypatch.setattr(Split, "batches", watched)
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


def test_ranges_equal_those_of_the_reference_evaluator(onnx_of):
    model = onnx_of("resnet8").proto
    images = images_of(3)
    tensor = "layer1.0.relu"
    histogram = histograms_of(model, [tensor], [images])[tensor]
    model.graph.output.add(name=tensor)
    values = np.concatenate([ReferenceEvaluator(model).run([tensor], {"images": x[None]})[0] for x in images])
    assert histogram.n == values.size
    assert histogram.zeros == np.count_nonzero(values == 0)
    assert histogram.maximum == pytest.approx(values.max(), rel=1e-5)


def test_statistics_do_not_depend_on_how_images_are_batched(onnx_of):
    model, images = onnx_of("resnet8").proto, images_of(12)
    one = histograms_of(model, ["images"], [images])["images"]
    many = histograms_of(model, ["images"], np.split(images, 4))["images"]
    assert np.array_equal(one.counts, many.counts)


def test_memory_does_not_grow_with_the_number_of_images(onnx_of):
    model = onnx_of("resnet8").proto
    tensors = ["images", "relu", "layer1.0.relu_1"]

    def peak(batches: int) -> int:
        tracemalloc.start()
        histograms_of(model, tensors, (images_of(16, seed) for seed in range(batches)))
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(2)
    assert peak(60) < 1.2 * peak(6)


def test_an_image_that_is_no_number_is_refused(onnx_of):
    bad = images_of(2)
    bad[1, 0, 3, 3] = np.nan
    with pytest.raises(InputError, match="NaN values"):
        histograms_of(onnx_of("resnet8").proto, ["images"], [bad])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"methods": ("minmax", "entropi")}, "unknown calibrator 'entropi'; did you mean entropy"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(values, message, onnx_of, tmp_path):
    with pytest.raises(InputError, match=message):
        calibrate(onnx_of("resnet8"), CalibrateConfig(data="digits", **values), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_quantized_model_is_refused(onnx_of, tmp_path):
    source = onnx_of("resnet8")
    scales = calibrate(source, CalibrateConfig(data="digits", images=64), tmp_path / "scales").output.path
    done = quantize(source, QuantizeConfig(scales=scales), tmp_path / "out").output
    with pytest.raises(InputError, match="quantized already"):
        calibrate(done, CalibrateConfig(data="digits"), tmp_path / "again")
    with pytest.raises(InputError, match="quantized already"):
        quantize(done, QuantizeConfig(scales=scales), tmp_path / "again")


def test_a_dead_tensor_is_named(onnx_of, tmp_path):
    source = onnx_of("resnet8")
    model = source.proto
    for tensor in model.graph.initializer:
        if tensor.name.startswith("layer1.0.conv1."):
            tensor.raw_data = bytes(len(tensor.raw_data))
    source.path.write_bytes(model.SerializeToString())
    result = calibrate(type(source)(source.path), CalibrateConfig(data="digits", images=64), tmp_path / "out")
    assert "always zero on the calibration images: layer1.0.relu" in result.report.warnings


def test_all_images_are_taken_if_there_are_fewer_than_asked_for(onnx_of, tmp_path):
    result = calibrate(onnx_of("resnet8"), CalibrateConfig(data="digits", images=5000), tmp_path / "out")
    assert scale_table_from(result.output.path).n == 1348
