from __future__ import annotations

import pytest

from edgeres.core.errors import InputError
from edgeres.quantize.calibrate import CalibrateConfig, calibrate
from edgeres.quantize.lint import lint
from edgeres.quantize.qat import QatConfig, qat


@pytest.fixture
def calibrated(onnx_of, tmp_path):
    source = onnx_of("resnet8", dynamic=True)
    return source, calibrate(source, CalibrateConfig(data="digits", images=64), tmp_path / "scales").output.path


def config_of(scales, **changes) -> QatConfig:
    return QatConfig(
        **{"data": "digits", "scales": scales, "images": 200, "epochs": 2, "method": "percentile", **changes}
    )


def test_it_writes_a_clean_int8_graph_that_is_no_further_from_float(calibrated, tmp_path):
    source, scales = calibrated
    result = qat(source, config_of(scales), tmp_path / "out")
    results = result.report.results
    assert results["held_out_loss"] <= results["held_out_loss_first"]
    assert results["held_out"] == 20
    assert result.output.precision == "int8"
    assert result.output.card.parent == source.sha256
    assert lint(result.output.proto) == ()
    assert result.output.has_scaled_channels == ("channels" in results["improve"])
    assert not (tmp_path / "out" / "state.pt").exists()


def test_the_same_call_gives_the_same_bytes(calibrated, tmp_path):
    source, scales = calibrated
    config = config_of(scales, images=100, epochs=1, threads=1, finetune=True)
    paths = [qat(source, config, tmp_path / name).output.path for name in "ab"]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_few_held_out_images_and_a_training_that_gains_nothing_are_warned_of(calibrated, tmp_path):
    source, scales = calibrated
    result = qat(source, config_of(scales, images=70, epochs=1, lr=1e-12), tmp_path / "out")
    few, nothing = result.report.warnings
    assert few.startswith("only 7 held-out images chose the weights")
    assert nothing.startswith("training gained nothing")


def test_bad_input_is_refused_in_one_line(calibrated, onnx_of, tmp_path):
    source, scales = calibrated
    with pytest.raises(InputError, match="was made for another model"):
        qat(onnx_of(seed=3), config_of(scales), tmp_path / "out")
    with pytest.raises(InputError, match="no scale table"):
        qat(source, config_of(None), tmp_path / "out")
    quantized = qat(source, config_of(scales, images=70, epochs=1), tmp_path / "done").output
    with pytest.raises(InputError, match="quantized already"):
        qat(quantized, config_of(scales), tmp_path / "out")
