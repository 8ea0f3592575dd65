"""Small models as they come out of export and quantize."""

from __future__ import annotations

import pytest

from edgeres.core.artifacts import OnnxModel
from edgeres.export.stage import ExportConfig, export
from edgeres.quantize.scales import CalibrateConfig, calibrate
from edgeres.quantize.stage import QuantizeConfig, quantize


@pytest.fixture
def float_model(spec_of, checkpoint_of, tmp_path) -> OnnxModel:
    return export(checkpoint_of(spec_of()), ExportConfig(), tmp_path / "float").output


@pytest.fixture
def int8_model(float_model, tmp_path) -> OnnxModel:
    scales = calibrate(float_model, CalibrateConfig(data="digits", images=64), tmp_path / "scales").output
    return quantize(float_model, QuantizeConfig(scales=scales.path), tmp_path / "int8").output
