from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import numpy_helper

from edgeres.models.family import ORDERINGS
from edgeres.quantize.decision import Decision, quantized_weight
from edgeres.quantize.insert import with_pairs
from edgeres.quantize.lint import lint
from edgeres.quantize.placement import placement_of

weights = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 6), st.integers(1, 4)), elements=st.floats(-1e3, 1e3, width=32)
)


@given(weights)
def test_stored_weights_are_within_half_a_step_of_the_real_ones(weight):
    stored = quantized_weight(weight)
    values, scale = stored.values, stored.scale
    assert values.dtype == np.int8
    assert np.abs(values.astype(int)).max() <= 127
    assert (scale > 0).all()
    assert np.isfinite(scale).all()
    error = np.abs(values * scale[:, None].astype(np.float64) - weight)
    assert (error <= scale[:, None] * 0.5001).all()


def test_every_channel_uses_the_whole_range_and_an_empty_one_a_positive_scale():
    stored = quantized_weight(np.float32([[1, -2], [0, 0], [30, 5]]))
    values, scale = stored.values, stored.scale
    assert values.tolist() == [[64, -127], [0, 0], [127, 21]]
    assert scale.tolist() == np.float32([2 / 127, 30 / 127, 30 / 127]).tolist()


def quantized(model: onnx.ModelProto, amax: float = 4.0) -> onnx.ModelProto:
    placement = placement_of(model)
    return with_pairs(model, placement, Decision(dict.fromkeys(placement.observed, amax)))


@pytest.mark.covering(2)
@pytest.mark.parametrize("ordering", ORDERINGS)
@pytest.mark.parametrize("shortcut", "ABC")
@pytest.mark.parametrize("arch", ["resnet8", "fcresnet8"])
def test_the_written_graph_is_valid_and_obeys_the_rules(arch, ordering, shortcut, onnx_of):
    model = quantized(onnx_of(arch, ordering=ordering, shortcut=shortcut).proto)
    onnx.checker.check_model(model, full_check=True)
    assert lint(model) == ()


def test_the_source_is_left_alone(onnx_of):
    source = onnx_of("resnet8").proto
    before = source.SerializeToString(deterministic=True)
    quantized(source)
    assert source.SerializeToString(deterministic=True) == before


def test_weights_are_stored_as_int8_and_biases_as_float(onnx_of):
    model = quantized(onnx_of("resnet8").proto)
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert types["layer1.0.conv1.weight"] == onnx.TensorProto.INT8
    assert types["layer1.0.conv1.bias"] == onnx.TensorProto.FLOAT


def test_a_padded_skip_has_the_scale_of_the_pair_it_reads(onnx_of):
    model = onnx_of("resnet8", shortcut="A").proto
    placement = placement_of(model)
    amax = {name: float(i + 1) for i, name in enumerate(placement.observed)}
    stored = {t.name: numpy_helper.to_array(t) for t in with_pairs(model, placement, Decision(amax)).graph.initializer}
    assert stored["layer2.0.downsample.pad.scale"] == stored["layer1.0.relu_1.scale"]
    assert stored["layer1.0.relu_1.scale"] == np.float32(amax["layer1.0.relu_1"] / 127)


def test_the_graph_computes_fake_quantization(onnx_of):
    """The stem by hand: quantize images and weights, convolve in float64, add the float bias."""
    model = onnx_of("resnet8").proto
    graph = quantized(model, amax=2.0)
    graph.graph.output.append(onnx.helper.make_tensor_value_info("conv1", onnx.TensorProto.FLOAT, None))
    images = np.random.default_rng(0).standard_normal((1, 1, 8, 8), dtype=np.float32)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options)
    actual = session.run(["conv1"], {"images": images})[0]
    stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    weight = quantized_weight(stored["conv1.weight"]).as_float.astype(np.float64)
    step = np.float32(2 / 127)
    padded = np.pad(np.clip(np.rint(images / step), -128, 127) * np.float64(step), [(0, 0)] * 2 + [(1, 1)] * 2)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    expected = np.einsum("nihwab,oiab->nohw", windows, weight) + stored["conv1.bias"][:, None, None]
    assert np.abs(actual - expected).max() < 1e-5 * np.abs(expected).max()
