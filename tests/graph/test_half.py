from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgeres.core.errors import InputError
from edgeres.export.stage import ExportConfig, export
from edgeres.graph.opset import with_half
from edgeres.graph.session import GraphSession
from edgeres.quantize.calibrate import CalibrateConfig, calibrate


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


@pytest.mark.parametrize("as_node", [False, True])
def test_a_resize_is_half_and_its_scales_are_not(as_node):
    scales = helper.make_tensor("scales", TensorProto.FLOAT, [4], [1, 1, 2, 2])
    node = helper.make_node("Constant", [], ["scales"], name="scales", value=scales)
    images, twice = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, size, size])
        for name, size in (("images", 3), ("twice", 6))
    )
    resize = helper.make_node("Resize", ["images", "", "scales"], ["twice"], name="resize", mode="nearest")
    kept = {} if as_node else {"initializer": [scales]}
    graph = helper.make_graph([node, resize] if as_node else [resize], "net", [images], [twice], **kept)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    half = with_half(model)
    onnx.checker.check_model(half, full_check=True)
    given = np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3)
    found, expected = (GraphSession(one, "net", ["twice"]).run({"images": given})["twice"] for one in (half, model))
    assert np.array_equal(found, expected)
