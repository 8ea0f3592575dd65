from __future__ import annotations

import pytest

from edgeres.core.errors import InputError
from edgeres.export.stage import ExportConfig, export
from edgeres.quantize.scales import CalibrateConfig, calibrate


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_graph_in_half_precision_keeps_its_card_and_its_input(dynamic, spec_of, checkpoint_of, tmp_path):
    source = checkpoint_of(spec_of())
    result = export(source, ExportConfig(half=True, dynamic=dynamic), tmp_path / "half")
    model = result.output
    assert (model.precision, model.card.parent) == ("fp16", source.sha256)
    assert {entry.domain: entry.version for entry in model.proto.opset_import} == {"": 17}
    assert model.proto.graph.input[0].type.tensor_type.elem_type == 1
    assert 0 < result.report.results["max_relative_difference"] < 1e-2


def test_a_graph_in_half_precision_is_not_calibrated(spec_of, checkpoint_of, tmp_path):
    model = export(checkpoint_of(spec_of()), ExportConfig(half=True), tmp_path / "half").output
    with pytest.raises(InputError, match="is in FP16; use the float32 model"):
        calibrate(model, CalibrateConfig(data="digits", images=32), tmp_path / "scales")
