"""What a graph without a card tells, against what edgeres knows of its own networks."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_dynamic, quantize_static

from edgeres.compile.config import CompileConfig
from edgeres.compile.stage import compile_engine
from edgeres.core.artifacts import OnnxModel
from edgeres.core.errors import InputError
from edgeres.core.onnx_file import derived_card, external_files
from edgeres.core.spec import FROM_ONNX
from edgeres.evaluate.stage import EvalConfig, doubts_of_batch, evaluate
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


class Shown(CalibrationDataReader):
    def __init__(self, name):
        images = np.random.default_rng(0).standard_normal((4, 1, 1, 8, 8), np.float32)
        self._feeds = iter([{name: image} for image in images])

    def get_next(self):
        return next(self._feeds, None)


@pytest.fixture(params=["QOperator", "QOperator per channel", "dynamic"])
def on_integers(request, onnx_of, tmp_path):
    """(a float file, one that ONNX Runtime made of it, without Q/DQ pairs), neither with a card."""
    model, files = (
        onnx.load(onnx_of("resnet8", dynamic=True).path),
        (tmp_path / "float.onnx", tmp_path / "integers.onnx"),
    )
    del model.metadata_props[:]
    onnx.save(model, files[0])
    if request.param == "dynamic":
        quantize_dynamic(*files)
    else:
        options = {"quant_format": QuantFormat.QOperator, "per_channel": request.param.endswith("channel")}
        quantize_static(*files, Shown(model.graph.input[0].name), **options)
    return tuple(map(OnnxModel, files))


def test_a_file_on_integers_is_int8_and_of_the_same_cost(on_integers):
    whole, integers = on_integers
    assert (whole.precision, integers.precision) == ("fp32", "int8")
    assert integers.card.cost.params == whole.card.cost.params
    assert integers.card.cost.macs in (0, whole.card.cost.macs)  # the part before an operator of ONNX Runtime is none
    assert not whole.integer_operators


def test_a_file_on_integers_is_refused_before_an_engine_is_built(on_integers, tmp_path):
    with pytest.raises(InputError, match=r"computes with .*(QLinear|Integer).*, TensorRT reads Q/DQ pairs only: quant"):
        compile_engine(on_integers[1], CompileConfig(runtime="tensorrt-rtx"), tmp_path / "out")


def test_a_fixed_batch_is_the_one_that_is_told(onnx_of, tmp_path):
    quantize_dynamic(onnx_of("resnet8").path, tmp_path / "one.onnx")
    model = OnnxModel(tmp_path / "one.onnx")
    assert (model.batch, model.has_scales_of_its_batch) == (1, True)
    assert not doubts_of_batch(model, 250)


def test_what_onnx_runtime_fuses_of_a_dynamic_file_is_counted(on_integers, tmp_path):
    whole, integers = on_integers
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(integers.path, options, providers=["CPUExecutionProvider"])
    assert OnnxModel(tmp_path / "fused.onnx").card.cost.macs in (0, whole.card.cost.macs)


def test_scales_of_a_batch_are_told(on_integers, tmp_path):
    how = {"data": "digits", "images": 20, "mean": (0.5,), "std": (0.5,)}
    for batch in (1, 20):
        report = evaluate(on_integers[1], EvalConfig(**how, batch=batch), predictions=tmp_path / "e.npy")
        told = [said for said in report.warnings if "takes its scales from each batch, here of 20 images" in said]
        assert bool(told) == (batch > 1 and on_integers[1].has_scales_of_its_batch)
        assert "literal" not in report.accuracy[0].runtime


def test_numbers_that_say_where_are_no_parameters(tmp_path):
    model = quantized_pair()
    known = derived_card(model, tmp_path / "x.onnx").cost.params
    model.graph.initializer.append(numpy_helper.from_array(np.array([0, 1], np.int32), "places"))
    model.graph.node.insert(3, helper.make_node("Gather", ["n", "places"], ["kept"], axis=1))
    next(node for node in model.graph.node if node.op_type == "GlobalAveragePool").input[0] = "kept"
    assert derived_card(model, tmp_path / "x.onnx").cost.params == known


def test_macs_behind_an_operator_of_unknown_shape_are_unknown(tmp_path):
    model = quantized_pair()
    model.graph.node.insert(0, helper.make_node("Odd", ["x"], ["hidden"], domain="somebody"))
    model.graph.node[2].input[0] = "hidden"
    model.opset_import.append(helper.make_opsetid("somebody", 1))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, ("n", 2)))
    assert derived_card(model, tmp_path / "x.onnx").cost.macs == 0


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
