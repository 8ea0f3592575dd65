"""Small models as they come out of export and quantize."""

from __future__ import annotations

import pytest

from edgeres.core.artifacts import OnnxModel
from edgeres.core.spec import Card, Cost
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


@pytest.fixture
def manifest_values(spec_of) -> dict[str, object]:
    """What every manifest holds, of an INT8 engine that TensorRT 10.3 built on an Orin."""
    return {
        "card": Card(spec=spec_of(), cost=Cost(params=1, macs=1), stage="compile", parent="0" * 64, edgeres="0"),
        "runtime": "tensorrt",
        "runtime_version": "10.3.0.30",
        "targets": ("sm87",),
        "precision": "int8",
        "onnx_sha256": "0" * 64,
        "plan_sha256": "",
        "batch": (1, 1, 1),
        "inputs": {"images": (1, 1, 8, 8)},
        "outputs": {"logits": (1, 10)},
        "build_s": 1.0,
    }
