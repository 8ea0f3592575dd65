"""What a graph without a card tells, against what edgeres knows of its own networks."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeres.core.artifacts import OnnxModel
from edgeres.core.errors import InputError
from edgeres.core.onnx_file import derived_card, external_files
from edgeres.core.spec import FROM_ONNX
from edgeres.export.stage import ExportConfig, export


@pytest.mark.parametrize(("arch", "options"), [("resnet8", {"batch": 2}), ("plain8", {"dynamic": True})])
def test_macs_classes_and_input_are_those_of_the_card_that_was_taken_away(
    arch, options, spec_of, checkpoint_of, tmp_path
):
    ours = export(checkpoint_of(spec_of(arch)), ExportConfig(**options), tmp_path).output
    known, derived = ours.card, derived_card(ours.proto, ours.path)
    assert derived.cost.macs == known.cost.macs
    assert (derived.spec.input_shape, derived.spec.num_classes) == (known.spec.input_shape, known.spec.num_classes)
    assert (derived.spec.family, derived.spec.preprocess.is_known) == (FROM_ONNX, False)


def quantized_pair() -> onnx.ModelProto:
    """A convolution of 2 x 3 x 3 x 3 INT8 weights with a float bias, and a batch norm."""
    stored = {
        "w": np.zeros((2, 3, 3, 3), np.int8),
        "s": np.ones(2, np.float32),
        "z": np.zeros(2, np.int8),
        "b": np.zeros(2, np.float32),
        "one": np.ones(2, np.float32),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["d"], axis=0),
        helper.make_node("Conv", ["x", "d", "b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "g", "one", "m", "v"], ["n"]),
        helper.make_node("GlobalAveragePool", ["n"], ["p"]),
        helper.make_node("Flatten", ["p"], ["y"]),
    ]
    stored |= {name: np.ones(2, np.float32) for name in ("g", "m", "v")}
    images = helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", 3, 8, 8))
    logits = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    tensors = [numpy_helper.from_array(array, name) for name, array in stored.items()]
    graph = helper.make_graph(nodes, "g", [images], [logits], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_scales_and_the_statistics_of_batch_norms_are_no_parameters(tmp_path):
    cost = derived_card(quantized_pair(), tmp_path / "x.onnx").cost
    weights, bias, scale_and_shift = 2 * 27, 2, 4
    assert cost.params == weights + bias + scale_and_shift
    assert cost.macs == 8 * 8 * weights


@pytest.mark.parametrize("place", ["../secret.bin", "/etc/hostname"])
def test_weights_outside_the_folder_are_refused_before_they_are_read(place, tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(4 * math.prod((2, 3, 3, 3))))
    model = quantized_pair()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=place)
    (folder / "x.onnx").write_bytes(model.SerializeToString())
    for read in (external_files, lambda path: OnnxModel(path).sha256, lambda path: OnnxModel(path).proto):
        with pytest.raises(InputError, match="which is not in its folder"):
            read(folder / "x.onnx")


def test_weights_in_the_graphs_inside_a_node_lie_beside_the_file_too(tmp_path):
    outside = numpy_helper.from_array(np.ones(2, np.float32), "w")
    outside.ClearField("raw_data")
    outside.data_location = TensorProto.EXTERNAL
    outside.external_data.add(key="location", value="w.bin")
    made = helper.make_tensor_value_info("w", TensorProto.FLOAT, (2,))
    body = helper.make_graph([], "body", [], [made], [outside])
    node = helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body)
    chosen = helper.make_tensor_value_info("c", TensorProto.BOOL, ())
    graph = helper.make_graph([node], "g", [chosen], [helper.make_tensor_value_info("y", TensorProto.FLOAT, (2,))])
    (tmp_path / "x.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    hashes = []
    for content in (b"one", b"two"):
        (tmp_path / "w.bin").write_bytes(content)
        hashes.append(OnnxModel(tmp_path / "x.onnx").sha256)
    assert external_files(tmp_path / "x.onnx") == (tmp_path / "w.bin",)
    assert hashes[0] != hashes[1]
