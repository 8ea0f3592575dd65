import re

import pytest

from edgeres.report.page_text import bounds_of
from edgeres.report.rows import rows_from


@pytest.fixture
def calibrated(fake_run):
    _, exported = fake_run.model("export", "model.onnx", 1000)
    fake_run.calibrated(exported)
    return fake_run


def quantized(run, *, results=None, stage="quantize", **config):
    run.model(stage, "model.int8.onnx", 500, precision="int8", config=config, results=results or {})
    return rows_from(run.path).histograms


def test_the_bound_that_was_taken_is_marked(calibrated):
    assert [one.chosen for one in quantized(calibrated, method="mse", profile="tensorrt").shown] == ["mse", "mse"]


def test_auto_has_a_method_for_each_tensor(calibrated):
    found = quantized(calibrated, method="auto", results={"method_of": {"layer1.0.conv1": "entropy"}})
    assert [one.chosen for one in found.shown] == ["entropy", ""]


@pytest.mark.parametrize(
    ("stage", "config", "why"),
    [
        ("qat", {"method": "mse"}, "trained further"),
        ("quantize", {"method": "mse", "improve": ["equalize", "bias"]}, "Channels were scaled (equalize)"),
        ("quantize", {"method": "mse", "profile": "ort-cpu"}, "not symmetric"),
    ],
)
def test_where_the_bound_is_another_none_is_marked_and_the_page_says_why(calibrated, stage, config, why):
    found = quantized(calibrated, stage=stage, **config)
    assert {one.chosen for one in found.shown} == {""}
    assert why in found.note


def test_the_table_of_bounds_has_every_calibrator(calibrated):
    titles, rows = bounds_of(quantized(calibrated, method="mse"))
    assert titles == ("Tensor", "minmax", "mse", "entropy")
    assert rows[0][2] == ("4.5", "38.2 dB", "taken")
    assert rows[0][3] == ("5.5",)


def test_an_older_calibration_without_histograms_has_none(fake_run):
    _, exported = fake_run.model("export", "model.onnx", 1000)
    fake_run.stage("calibrate", source=exported, results={"images": 512, "tensors": 40})
    summary = rows_from(fake_run.path)
    assert summary.histograms is None
    assert not any("histogram" in problem for problem in summary.problems)


@pytest.mark.parametrize("damage", ['"counts": []', '"counts": [-1]', '"counts": [0, 0]', '"counts": "many"'])
def test_damaged_histograms_are_told(calibrated, damage):
    path = calibrated.path / "01-calibrate/report.json"
    path.write_text(re.sub(r'"counts": \[[^]]*\]', damage, path.read_text()))
    summary = rows_from(calibrated.path)
    assert summary.histograms is None
    assert any("its histograms cannot be read" in problem for problem in summary.problems)
