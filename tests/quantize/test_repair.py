from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from edgeres.core.errors import InputError
from edgeres.quantize.decision import Decision
from edgeres.quantize.insert import with_pairs
from edgeres.quantize.lint import lint
from edgeres.quantize.placement import placement_of
from edgeres.quantize.repair import repair, stripping, without_pairs
from edgeres.quantize.repair.check import RepairCheck, check_of, image_input_of
from edgeres.quantize.repair.inputs import COARSER_DB, coarseness

NOISE_DB = 15  # two INT8 versions of one small random network agree better; without one of its ReLUs it is below 5


class Images(CalibrationDataReader):
    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        images = np.random.default_rng(1).standard_normal((16, *shape)).astype(np.float32)
        self._feeds = iter([{name: image[None]} for image in images])

    def get_next(self):
        return next(self._feeds, None)


PRESETS = {
    "default": {},
    "uint8": {"per_channel": True, "activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8},
    "tensorrt": {
        "per_channel": True,
        "activation_type": QuantType.QInt8,
        "weight_type": QuantType.QInt8,
        "extra_options": {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
    },
    "float weights": {
        "per_channel": True,
        "activation_type": QuantType.QInt8,
        "weight_type": QuantType.QInt8,
        "extra_options": {"ActivationSymmetric": True, "AddQDQPairToWeight": True, "DedicatedQDQPair": True},
    },
}


def quantized_by_ort(source: Path, out: Path, preset: str) -> onnx.ModelProto:
    value = onnx.load(source).graph.input[0]
    shape = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim[1:])
    quantize_static(source, out, Images(value.name, shape), quant_format=QuantFormat.QDQ, **PRESETS[preset])
    return onnx.load(out)


def unfolded(model: onnx.ModelProto) -> onnx.ModelProto:
    """A batch norm behind every convolution."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    rng = np.random.default_rng(0)
    sizes = {tensor.name: tensor.dims[0] for tensor in model.graph.initializer if tensor.dims}
    nodes = list(result.graph.node)
    del result.graph.node[:]
    for node in nodes:
        result.graph.node.append(node)
        if node.op_type != "Conv":
            continue
        added, output = result.graph.node[-1], node.output[0]
        added.output[0] = f"{output}.raw"
        names = [f"{output}.{part}" for part in ("gain", "beta", "mean", "variance")]
        for name in names:
            values = rng.uniform(0.5, 1.5, sizes[node.input[1]]).astype(np.float32)
            if name.endswith("gain"):
                values[0] *= -1
            result.graph.initializer.append(numpy_helper.from_array(values, name))
        result.graph.node.add(
            op_type="BatchNormalization", name=f"{node.name}.bn", input=[f"{output}.raw", *names], output=[output]
        )
    return result


@pytest.fixture
def by_edgeres(onnx_of) -> onnx.ModelProto:
    source = onnx_of("resnet8").proto
    placement = placement_of(source)
    return with_pairs(source, placement, Decision(dict.fromkeys(placement.observed, 2.0)))


def compared(before: Path, after: Path, images: int) -> RepairCheck:
    model = onnx.load(before)
    return check_of(before, after, without_pairs(model), image_input_of(model, str(before)).showing(images))


def without_pair(model: onnx.ModelProto, tensor: str) -> None:
    """Lets all readers of a pair read `tensor` itself and takes the pair out."""
    kept = [node for node in model.graph.node if node.name not in (f"{tensor}.quantized", f"{tensor}.dequantized")]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
    for node in copies:
        for index, name in enumerate(node.input):
            if name == f"{tensor}.dequantized":
                node.input[index] = tensor
    del model.graph.node[:]
    model.graph.node.extend(copies)


def outputs(model: onnx.ModelProto) -> np.ndarray:
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    image = np.random.default_rng(2).standard_normal(session.get_inputs()[0].shape).astype(np.float32)
    return session.run(None, {session.get_inputs()[0].name: image})[0]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("options", [{"shortcut": "A"}, {"shortcut": "B"}])
def test_onnxruntimes_files_become_clean_and_compute_the_same(preset, options, onnx_of, tmp_path):
    source = onnx_of("resnet8", **options)
    before = quantized_by_ort(source.path, tmp_path / "before.onnx", preset)
    assert {finding.rule for finding in lint(before)} >= {"skip"}
    result = repair(before)
    assert lint(result.model) == ()
    assert result.notes == ()
    onnx.checker.check_model(result.model, full_check=True)
    onnx.save(result.model, tmp_path / "after.onnx")
    assert compared(tmp_path / "before.onnx", tmp_path / "after.onnx", 16).sqnr_db > NOISE_DB


def test_the_pairs_stand_where_edgeres_puts_them(onnx_of, tmp_path):
    source = onnx_of("resnet8")
    repaired = repair(quantized_by_ort(source.path, tmp_path / "before.onnx", "tensorrt")).model
    floats = placement_of(source.proto)
    quantized = {node.input[0] for node in repaired.graph.node if node.op_type == "QuantizeLinear"}
    assert quantized == {point.tensor for point in floats.points}


def test_batch_norm_is_folded_into_the_integers_scales(onnx_of, tmp_path):
    onnx.save(unfolded(onnx_of("resnet8").proto), tmp_path / "float.onnx")
    before = quantized_by_ort(tmp_path / "float.onnx", tmp_path / "before.onnx", "tensorrt")
    assert {finding.rule for finding in lint(before)} >= {"batch-norm", "split"}
    after = repair(before).model
    assert lint(after) == ()
    assert not any(node.op_type == "BatchNormalization" for node in after.graph.node)
    onnx.save(after, tmp_path / "after.onnx")
    assert compared(tmp_path / "before.onnx", tmp_path / "after.onnx", 16).sqnr_db > NOISE_DB


def test_a_relu_that_a_pair_stood_in_for_comes_back(onnx_of, tmp_path):
    source = onnx_of("resnet8")
    before = quantized_by_ort(source.path, tmp_path / "before.onnx", "default")
    count = [sum(n.op_type == "Relu" for n in m.graph.node) for m in (source.proto, before, repair(before).model)]
    assert count[1] < count[0]
    assert count[2] == count[0]


def test_a_clean_graph_computes_exactly_the_same(by_edgeres):
    result = repair(by_edgeres)
    assert result.notes == ()
    assert np.array_equal(outputs(result.model), outputs(by_edgeres))


def test_the_source_is_left_as_it_is(by_edgeres):
    before = by_edgeres.SerializeToString(deterministic=True)
    repair(by_edgeres)
    assert by_edgeres.SerializeToString(deterministic=True) == before


def test_the_repaired_file_is_the_same_in_every_process(by_edgeres, tmp_path):
    onnx.save(by_edgeres, tmp_path / "before.onnx")
    code = (
        "import hashlib, onnx, sys; from edgeres.quantize.repair import repair;"
        "print(hashlib.sha256(repair(onnx.load(sys.argv[1])).model.SerializeToString(deterministic=True)).hexdigest())"
    )
    command = [sys.executable, "-c", code, tmp_path / "before.onnx"]
    seeds = ({**os.environ, "PYTHONHASHSEED": seed} for seed in ("1", "2"))
    assert len({subprocess.run(command, env=env, check=True, capture_output=True).stdout for env in seeds}) == 1


def test_the_repaired_graph_keeps_inputs_outputs_and_metadata(onnx_of, tmp_path):
    before = quantized_by_ort(onnx_of("resnet8").path, tmp_path / "before.onnx", "default")
    after = repair(before).model
    for field in ("input", "output"):
        assert [v.name for v in getattr(after.graph, field)] == [v.name for v in getattr(before.graph, field)]
    assert list(after.metadata_props) == list(before.metadata_props)


def test_one_scale_for_all_channels_is_spread_without_changing_a_number(by_edgeres):
    graph = by_edgeres.graph
    for tensor in graph.initializer:
        if tensor.name == "conv1.weight.scale":
            tensor.CopyFrom(numpy_helper.from_array(np.float32(0.01).reshape(()), tensor.name))
        if tensor.name == "conv1.weight.zero_point":
            tensor.CopyFrom(numpy_helper.from_array(np.int8(0).reshape(()), tensor.name))
    node = next(node for node in graph.node if node.name == "conv1.weight.dequantized")
    del node.attribute[:]
    after = repair(by_edgeres).model
    assert lint(after) == ()
    assert np.array_equal(outputs(after), outputs(by_edgeres))


def test_a_half_quantized_layer_is_completed_where_its_range_is_known(by_edgeres):
    node = next(node for node in by_edgeres.graph.node if node.name == "layer1.0.conv1")
    node.input[0] = "relu"
    assert any(finding.rule == "half" for finding in lint(by_edgeres))
    assert lint(repair(by_edgeres).model) == ()


def test_a_layer_whose_range_is_not_known_becomes_float_and_says_so(by_edgeres):
    without_pair(by_edgeres, "layer1.0.relu")
    assert [finding.rule for finding in lint(by_edgeres)] == ["half"]
    result = repair(by_edgeres)
    assert lint(result.model) == ()
    (note,) = result.notes
    assert note.startswith("layer1.0.conv2 is float now: the range of layer1.0.relu is not known")


def test_a_skip_whose_range_is_not_known_stays_a_finding(onnx_of):
    source = onnx_of("resnet8", shortcut="B").proto
    placement = placement_of(source)
    model = with_pairs(source, placement, Decision(dict.fromkeys(placement.observed, 2.0)))
    shortcut = next(t for t in placement.observed if t.startswith("layer2.0.") and "conv" not in t and "relu" not in t)
    without_pair(model, shortcut)
    result = repair(model)
    assert [finding.rule for finding in lint(result.model)] == ["skip"]
    assert [finding.fixable for finding in lint(result.model)] == [False]
    assert result.notes[0].startswith("layer2.0.add keeps a float skip")


def test_a_pool_whose_range_the_file_has_not_gets_one_that_is_measured(by_edgeres):
    whole = onnx.ModelProto.FromString(by_edgeres.SerializeToString())
    without_pair(by_edgeres, "layer3.0.relu_1")
    assert [finding.rule for finding in lint(by_edgeres)] == ["pool"]
    (note,) = repair(by_edgeres).notes
    assert note.startswith("avgpool averages in float: the range of layer3.0.relu_1 is not known")
    asked = []

    def measured(floats: onnx.ModelProto, tensors: list[str]) -> dict[str, float]:
        asked.extend(tensors)
        assert not any(node.op_type == "QuantizeLinear" for node in floats.graph.node)
        return dict.fromkeys(tensors, 2.0)

    result = repair(by_edgeres, measured)
    assert (asked, result.notes, lint(result.model)) == (["layer3.0.relu_1"], (), ())
    assert np.array_equal(outputs(result.model), outputs(whole))


def test_a_pair_before_a_relu_moves_behind_it(by_edgeres):
    graph = by_edgeres.graph
    pair_of = {node.name: node for node in graph.node}
    quantize, dequantize = pair_of["layer1.0.relu.quantized"], pair_of["layer1.0.relu.dequantized"]
    relu = pair_of["layer1.0.relu"]
    quantize.input[0] = "layer1.0.conv1"
    relu.input[0] = dequantize.output[0]
    pair_of["layer1.0.conv2"].input[0] = relu.output[0]
    order = [node for node in graph.node if node is not relu]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in order if node.name != relu.name]
    position = next(i for i, node in enumerate(copies) if node.name == dequantize.name) + 1
    copies.insert(position, onnx.NodeProto.FromString(relu.SerializeToString()))
    del graph.node[:]
    graph.node.extend(copies)
    assert {finding.rule for finding in lint(by_edgeres)} == {"split", "half"}
    after = repair(by_edgeres).model
    assert lint(after) == ()
    assert np.abs(outputs(after) - outputs(by_edgeres)).max() < 1e-4


def test_an_output_behind_a_pair_keeps_its_name(by_edgeres):
    graph = by_edgeres.graph
    output = graph.output[0].name
    last = graph.node[-1]
    last.output[0] = "raw"
    parameters = ["relu.scale", "relu.zero_point"]
    graph.node.append(helper.make_node("QuantizeLinear", ["raw", *parameters], ["raw.q"]))
    graph.node.append(helper.make_node("DequantizeLinear", ["raw.q", *parameters], [output]))
    after = repair(by_edgeres).model
    assert after.graph.node[-1].op_type == last.op_type
    assert after.graph.node[-1].output[0] == output
    onnx.checker.check_model(after, full_check=True)


def test_control_flow_is_refused(by_edgeres):
    body = helper.make_graph([], "body", [], [])
    by_edgeres.graph.node.add(op_type="If", name="if", input=["c"], output=["d"]).attribute.append(
        helper.make_attribute("then_branch", body)
    )
    with pytest.raises(InputError, match="If node 'if' holds a graph of its own"):
        repair(by_edgeres)


def test_outputs_that_are_not_finite_are_nothing_to_compare_with(by_edgeres, tmp_path):
    for tensor in by_edgeres.graph.initializer:
        if tensor.name == "fc.bias":
            tensor.CopyFrom(numpy_helper.from_array(np.full(10, np.nan, np.float32), tensor.name))
    onnx.save(by_edgeres, tmp_path / "nan.onnx")
    with pytest.raises(InputError, match="not finite"):
        compared(tmp_path / "nan.onnx", tmp_path / "nan.onnx", 2)


def test_a_lost_relu_is_not_taken_for_quantization_noise(onnx_of, tmp_path, monkeypatch):
    before = tmp_path / "before.onnx"
    model = quantized_by_ort(onnx_of("resnet8").path, before, "default")
    right, wrong = tmp_path / "right.onnx", tmp_path / "wrong.onnx"
    onnx.save(repair(model).model, right)
    good = compared(before, right, 16)
    monkeypatch.setattr(stripping, "_add_relu", lambda draft, node: node.input[0])
    onnx.save(repair(model).model, wrong)
    bad = compared(before, wrong, 16)
    assert good.sqnr_db >= good.needed_db
    assert bad.sqnr_db < bad.needed_db


def with_output(model: onnx.ModelProto, op: str) -> onnx.ModelProto:
    """The pooled features, or what `op` makes of the logits, is an output too, or the only one (ArgMax)."""
    result = onnx.ModelProto.FromString(model.SerializeToString())
    graph, logits = result.graph, result.graph.output[0].name
    if op == "features":
        added = next(node for node in graph.node if node.op_type == "Gemm").input[0]
        graph.output.add().CopyFrom(helper.make_tensor_value_info(added, 1, None))
        return result
    graph.node.append(helper.make_node(op, [logits], ["made"], name="made", axis=1))
    kind = onnx.TensorProto.INT64 if op == "ArgMax" else onnx.TensorProto.FLOAT
    value = helper.make_tensor_value_info("made", kind, None)
    (graph.output[0] if op == "ArgMax" else graph.output.add()).CopyFrom(value)
    return result


@pytest.mark.parametrize("op", ["features", "Softmax", "ArgMax"])
@pytest.mark.parametrize("preset", ["tensorrt", pytest.param("default", marks=pytest.mark.exhaustive)])
def test_an_output_that_is_read_inside_the_graph_is_repaired(op, preset, onnx_of, tmp_path):
    source, before, after = (tmp_path / name for name in ("float.onnx", "before.onnx", "after.onnx"))
    onnx.save(with_output(onnx_of("resnet8").proto, op), source)
    model = quantized_by_ort(source, before, preset)
    repaired = repair(model).model
    onnx.save(repaired, after)
    assert lint(repaired) == ()
    given = image_input_of(model, "before").showing(8)
    assert coarseness(model, repaired, given).worst[1] < COARSER_DB
    assert compared(before, after, 16).sqnr_db > NOISE_DB


def test_every_output_is_compared(by_edgeres, tmp_path):
    for name, op in (("before.onnx", "Softmax"), ("after.onnx", "LogSoftmax")):
        onnx.save(with_output(by_edgeres, op), tmp_path / name)
    found = compared(tmp_path / "before.onnx", tmp_path / "after.onnx", 16)
    assert found.sqnr_db < found.needed_db


@pytest.mark.parametrize(("bias", "what"), [(0, "zero"), (1, "the same")])
def test_outputs_that_are_one_number_for_all_images_prove_nothing(bias, what, by_edgeres, tmp_path):
    for tensor in by_edgeres.graph.initializer:
        if tensor.name in {"fc.weight.scale", "fc.weight", "fc.bias"}:
            array = numpy_helper.to_array(tensor)
            value = {"fc.weight": 0, "fc.bias": bias}.get(tensor.name, 1)
            tensor.CopyFrom(numpy_helper.from_array(np.full_like(array, value), tensor.name))
    onnx.save(by_edgeres, tmp_path / "dead.onnx")
    with pytest.raises(InputError, match=f"outputs that are {what} for every one of 4 images, which proves nothing"):
        compared(tmp_path / "dead.onnx", tmp_path / "dead.onnx", 4)


def test_an_opset_without_scales_per_channel_is_raised(onnx_of, tmp_path):
    old = onnx_of("resnet8").proto
    old.opset_import[0].version = 11
    onnx.save(old, tmp_path / "float.onnx")
    before = quantized_by_ort(tmp_path / "float.onnx", tmp_path / "before.onnx", "default")
    assert before.opset_import[0].version == 11
    after = repair(before).model
    assert lint(after) == ()
    assert after.opset_import[0].version == 17
    onnx.save(after, tmp_path / "after.onnx")
    assert compared(tmp_path / "before.onnx", tmp_path / "after.onnx", 16).sqnr_db > NOISE_DB


def test_nodes_of_one_name_are_a_finding_and_get_names_of_their_own(by_edgeres, tmp_path):
    expected = outputs(by_edgeres)
    for node in by_edgeres.graph.node:
        node.name = "node"
    assert ("name", "node", True) in [(one.rule, one.node, one.fixable) for one in lint(by_edgeres)]
    after = repair(by_edgeres).model
    assert lint(after) == ()
    assert np.array_equal(outputs(after), expected)
    onnx.save(by_edgeres, tmp_path / "before.onnx")
    onnx.save(after, tmp_path / "after.onnx")
    assert compared(tmp_path / "before.onnx", tmp_path / "after.onnx", 2).sqnr_db == np.inf


def pyramid() -> onnx.ModelProto:
    """A lateral convolution of a map, and what comes from the next smaller map made as large, added."""
    rng = np.random.default_rng(0)

    def conv(name: str, source: str, channels: int, side: int, **options: object) -> onnx.NodeProto:
        weight = rng.normal(size=(4, channels, side, side)) * 0.3
        stored.append(numpy_helper.from_array(weight.astype(np.float32), f"{name}.weight"))
        return helper.make_node("Conv", [source, f"{name}.weight"], [name], name=name, **options)

    def relu(source: str) -> onnx.NodeProto:
        return helper.make_node("Relu", [source], [f"{source}.relu"], name=f"{source}.relu")

    stored = [numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "twice")]
    nodes = [
        *(conv("c4", "x", 3, 3, pads=[1] * 4), relu("c4")),
        *(conv("c5", "c4.relu", 4, 3, pads=[1] * 4, strides=[2, 2]), relu("c5"), conv("p5", "c5.relu", 4, 1)),
        helper.make_node("Resize", ["p5", "", "twice"], ["up"], name="up", mode="nearest"),
        conv("lateral", "c4.relu", 4, 1),
        helper.make_node("Add", ["lateral", "up"], ["sum"], name="sum"),
        conv("y", "sum", 4, 3, pads=[1] * 4),
    ]
    ends = [helper.make_tensor_value_info("x", 1, [1, 3, 8, 8]), helper.make_tensor_value_info("y", 1, [1, 4, 8, 8])]
    graph = helper.make_graph(nodes, "pyramid", ends[:1], ends[1:], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("turned", [False, True])
def test_the_sum_of_a_pyramid_is_fused_with_its_lateral_convolution(turned, tmp_path):
    model = pyramid()
    if turned:
        addition = next(node for node in model.graph.node if node.op_type == "Add")
        addition.input[:] = ["up", "lateral"]
    placement = placement_of(model)
    assert [point.tensor for point in placement.points if ("sum", 1 - turned) in point.readers] == ["up"]
    assert lint(with_pairs(model, placement, Decision(dict.fromkeys(placement.observed, 2.0)))) == ()
    onnx.save(model, tmp_path / "float.onnx")
    before = quantized_by_ort(tmp_path / "float.onnx", tmp_path / "before.onnx", "tensorrt")
    after = repair(before).model
    assert lint(after) == ()
    addition = next(node for node in after.graph.node if node.op_type == "Add")
    assert sorted(addition.input) == ["lateral", "up.dequantized"]
