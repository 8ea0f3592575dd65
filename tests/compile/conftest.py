"""Small models as they come out of export and quantize."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edgeres.core.artifacts import OnnxModel
from edgeres.quantize.calibrate import CalibrateConfig, calibrate
from edgeres.quantize.stage import QuantizeConfig, quantize


@pytest.fixture
def float_model(onnx_of) -> OnnxModel:
    return onnx_of()


@pytest.fixture
def int8_model(float_model, kept, tmp_path) -> OnnxModel:
    def write(path: Path) -> None:
        scales = calibrate(float_model, CalibrateConfig(data="digits", images=64), path.parent / "scales").output
        quantize(
            float_model, QuantizeConfig(scales=scales.path, effort="quick"), path.parent / "int8"
        ).output.path.replace(path)

    (tmp_path / "int8").mkdir()
    source = kept(f"int8 {float_model.sha256}", write)
    return OnnxModel(Path(shutil.copyfile(source, tmp_path / "int8" / "model.int8.onnx")))
