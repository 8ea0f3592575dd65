from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

from edgeres.quantize.decision import Decision
from edgeres.quantize.insert import with_pairs
from edgeres.quantize.placement import placement_of
from edgeres.quantize.repair import repair, stripping
from edgeres.quantize.repair.check import image_input_of, texture
from edgeres.quantize.repair.inputs import COARSER_DB, Coarseness, Roundings, coarseness

SHAPE = (8, 1, 8, 8)
EXACT_DB = 0.01


class Images(CalibrationDataReader):
    def __init__(self, name: str) -> None:
        self._feeds = iter([{name: image[None]} for image in texture(SHAPE)])

    def get_next(self):
        return next(self._feeds, None)


PRESETS = {
    "zero points": {"activation_type": QuantType.QInt8},
    "uint8": {"activation_type": QuantType.QUInt8},
    "symmetric": {"activation_type": QuantType.QInt8, "extra_options": {"ActivationSymmetric": True}},
    "float skips": {"activation_type": QuantType.QUInt8, "op_types_to_quantize": ["Conv", "Gemm"]},
}


@pytest.fixture
def by_ort(onnx_of, tmp_path):
    def make(preset: str) -> onnx.ModelProto:
        source: Path = onnx_of("resnet8").path
        name = onnx.load(source).graph.input[0].name
        options = {"weight_type": QuantType.QInt8, "per_channel": True, **PRESETS[preset]}
        quantize_static(source, tmp_path / "ort.onnx", Images(name), **options)
        return onnx.load(tmp_path / "ort.onnx")

    return make


def coarse(original: onnx.ModelProto, repaired: onnx.ModelProto, images: np.ndarray | None = None) -> Coarseness:
    shown = texture(SHAPE) if images is None else images
    return coarseness(original, repaired, image_input_of(original, "original").showing(shown))


def worst(original: onnx.ModelProto, repaired: onnx.ModelProto) -> tuple[tuple[str, int], float]:
    found = coarse(original, repaired).worst
    assert found is not None
    return found


def scaled(model: onnx.ModelProto, scale: str, factor: float) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.name == scale:
            value = numpy_helper.to_array(tensor) * np.float32(factor)
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(value, np.float32), scale))
    return copy


def activation_scales(model: onnx.ModelProto) -> list[str]:
    return [node.input[1] for node in model.graph.node if node.op_type == "QuantizeLinear"]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_right_repair_rounds_no_input_more_coarsely(preset, by_ort):
    original = by_ort(preset)
    repaired = repair(original).model
    found = coarse(original, repaired)
    assert found.unknown == ()
    assert len(found.excess_db) >= len(activation_scales(repaired))
    assert found.worst[1] <= EXACT_DB


@pytest.mark.covering(1)
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("factor", [0.5, 2, 4])
def test_any_one_wrong_scale_is_seen_where_it_is(preset, factor, by_ort):
    original = by_ort(preset)
    repaired = repair(original).model
    for scale in activation_scales(repaired):
        wrong = scaled(repaired, scale, factor)
        read, excess = worst(original, wrong)
        assert excess > COARSER_DB, scale
        assert Roundings(wrong).source(Roundings(wrong).reads[read]) == origin_of(wrong, scale)


def origin_of(model: onnx.ModelProto, scale: str) -> str:
    """The computed tensor whose pair has `scale`."""
    quantize = next(node for node in model.graph.node if node.op_type == "QuantizeLinear" and node.input[1] == scale)
    return Roundings(model).source(quantize.input[0])


def test_a_lost_relu_is_seen_though_the_float_graph_lost_it_too(by_ort, monkeypatch):
    original = by_ort("zero points")
    monkeypatch.setattr(stripping, "_add_relu", lambda draft, node: node.input[0])
    assert worst(original, repair(original).model)[1] > COARSER_DB


def test_a_range_that_the_images_do_not_fill_is_compared_to_its_end(by_ort):
    original = by_ort("zero points")
    repaired = repair(original).model
    dark = np.zeros(SHAPE, np.float32)
    for scale in activation_scales(repaired):
        for factor in (0.5, 2):
            found = coarse(original, scaled(repaired, scale, factor), dark)
            assert found.worst[1] > COARSER_DB


def test_an_input_without_a_range_in_the_original_is_named(onnx_of):
    source = onnx_of("resnet8").proto
    placement = placement_of(source)
    whole = with_pairs(source, placement, Decision(dict.fromkeys(placement.observed, 2.0)))
    half = onnx.ModelProto()
    half.CopyFrom(whole)
    node = next(node for node in half.graph.node if node.name == "layer1.0.conv2")
    node.input[0] = "layer1.0.relu"
    found = coarse(half, whole)
    assert found.unknown == ()
    for part in ("quantized", "dequantized"):
        half.graph.node.remove(next(node for node in half.graph.node if node.name == f"layer1.0.relu.{part}"))
    found = coarse(half, whole)
    assert found.unknown == (("layer1.0.conv2", 0),)


def test_the_range_of_a_pair_is_that_of_its_integers():
    parameters = {"s": np.float32(0.5), "z": np.uint8(100)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="q"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], name="d"),
        helper.make_node("Relu", ["d"], ["r"], name="r"),
        helper.make_node("GlobalAveragePool", ["r"], ["y"], name="pool"),
    ]
    ends = [helper.make_tensor_value_info(name, 1, [1, 1, 2, 2]) for name in "xy"]
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in parameters.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], stored)
    roundings = Roundings(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    assert roundings.ranges == {"x": (-50.0, 77.5)}
    assert roundings.reads == {("pool", 0): "r"}
    values = np.array([-80, 0.3, 0.2, 90], np.float32).reshape(1, 1, 2, 2)
    assert roundings.run({"x": values})["r"].ravel().tolist() == [0, 0.5, 0, 77.5]
