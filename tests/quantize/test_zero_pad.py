from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from edgeres.quantize.placement import with_padding_as_convolution


def outputs_of(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images})[0]


@pytest.mark.parametrize("dropped", [(), ("layer2.0",)])
@pytest.mark.parametrize("dynamic", [False, True])
def test_option_a_becomes_a_convolution_that_computes_the_same(dropped, dynamic, onnx_of):
    model = onnx_of("resnet14", shortcut="A", dropped=dropped, dynamic=dynamic).proto
    made = with_padding_as_convolution(model)
    onnx.checker.check_model(made, full_check=True)
    assert not {"Slice", "Pad"} & {node.op_type for node in made.graph.node}
    assert "Pad" in {node.op_type for node in model.graph.node}
    images = np.random.default_rng(0).standard_normal((1, 1, 8, 8), dtype=np.float32)
    np.testing.assert_allclose(outputs_of(made, images), outputs_of(model, images), rtol=1e-5, atol=1e-6)
    names = {node.name: node for node in made.graph.node}
    assert names["layer3.0.downsample.pad"].op_type == "Conv"


def test_padding_of_pixels_is_left_alone(onnx_of):
    model = onnx_of("resnet14", shortcut="A").proto
    for tensor in model.graph.initializer:
        if tensor.name == "layer3.0.downsample.pad.pads":
            pads = onnx.numpy_helper.to_array(tensor).copy()
            pads[2] = 1
            tensor.CopyFrom(onnx.numpy_helper.from_array(pads, tensor.name))
    made = with_padding_as_convolution(model)
    kinds = {node.name: node.op_type for node in made.graph.node}
    assert (kinds["layer2.0.downsample.pad"], kinds["layer3.0.downsample.pad"]) == ("Conv", "Pad")


def test_networks_without_option_a_are_unchanged(onnx_of):
    model = onnx_of("resnet8", shortcut="B").proto
    assert with_padding_as_convolution(model) == model
