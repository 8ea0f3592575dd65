from __future__ import annotations

import io

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from edgeres.core.errors import InputError
from edgeres.graph.blocks import modules_in
from edgeres.graph.normal import normalised
from edgeres.graph.view import GraphView, scope_of
from edgeres.quantize.decision import Decision
from edgeres.quantize.insert import with_pairs
from edgeres.quantize.lint import lint
from edgeres.quantize.placement import placement_of

RANDOM = np.random.default_rng(0)


class Block(nn.Module):
    """A residual module with ReLU6 and its own names."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.a, self.na = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.b, self.nb = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)
        self.act, self.drop = nn.ReLU6(), nn.Dropout(0.1)

    def forward(self, x):
        return self.act(x + self.drop(self.nb(self.b(self.act(self.na(self.a(x)))))))


class Net(nn.Module):
    """A stem, two blocks and a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks, self.head = nn.Conv2d(3, 8, 3), nn.Sequential(Block(8), Block(8)), nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def exported(**options) -> onnx.ModelProto:
    torch.manual_seed(0)
    network = Net().eval()
    for name, tensor in network.state_dict().items():
        if name.endswith("running_mean"):
            tensor.normal_(0, 0.2)
    buffer = io.BytesIO()
    torch.onnx.export(network, (torch.zeros(1, 3, 8, 8),), buffer, dynamo=False, input_names=["x"], **options)
    return onnx.load_from_string(buffer.getvalue())


def outputs_of(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images})[0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize(
    "options",
    [
        {"opset_version": 17},
        {"opset_version": 18},
        {"opset_version": 11},
        {"opset_version": 17, "do_constant_folding": False, "training": torch.onnx.TrainingMode.PRESERVE},
    ],
)
def test_a_torch_export_keeps_its_function_and_gets_the_usual_pairs(options):
    model = exported(**options)
    made = normalised(model)
    onnx.checker.check_model(made, full_check=True)
    images = RANDOM.standard_normal((1, 3, 8, 8), dtype=np.float32)
    np.testing.assert_allclose(outputs_of(made, images), outputs_of(model, images), rtol=1e-4, atol=1e-5)
    kinds = [node.op_type for node in made.graph.node]
    assert not {"BatchNormalization", "Identity", "Dropout", "Constant", "MatMul", "ReduceMean"} & set(kinds)
    placement = placement_of(made)
    assert (len(placement.layers), len(placement.additions)) == (6, 2)
    amax = dict.fromkeys(placement.observed, 4.0)
    assert lint(with_pairs(made, placement, Decision(amax))) == ()
    modules = modules_in(GraphView(made))
    assert [*map(scope_of, placement.additions)] == list(modules) == ["blocks.0", "blocks.1"]
    assert [len(set(placement.layers) & set(nodes)) for nodes in modules.values()] == [2, 2]


def node(op: str, inputs: list[str], output: str, **attributes) -> onnx.NodeProto:
    return helper.make_node(op, inputs, [output], **attributes)


def model_of(nodes: list[onnx.NodeProto], *, shape=(2, 4), **arrays) -> onnx.ModelProto:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    stored = [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "g", [value], [output], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


W = RANDOM.standard_normal((4, 3)).astype(np.float32)
B = RANDOM.standard_normal(3).astype(np.float32)


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Gemm", ["x", "w", "b"], "y")],
        [node("Gemm", ["x", "w", "b"], "y", alpha=0.5, beta=2.0)],
        [node("MatMul", ["x", "w"], "m"), node("Add", ["b", "m"], "y")],
        [node("MatMul", ["x", "w"], "y")],
        [
            node("Constant", [], "c", value=numpy_helper.from_array(W.T.copy())),
            node("Transpose", ["c"], "t", perm=[1, 0]),
            node("MatMul", ["x", "t"], "m"),
            node("Add", ["m", "b"], "y"),
        ],
    ],
)
def test_every_way_to_write_a_fully_connected_layer_becomes_one_gemm(nodes):
    model = model_of(nodes, w=W, b=B)
    made = normalised(model)
    assert [(n.op_type, n.attribute[0].name, n.attribute[0].i) for n in made.graph.node] == [("Gemm", "transB", 1)]
    x = RANDOM.standard_normal((2, 4), dtype=np.float32)
    np.testing.assert_allclose(outputs_of(made, x), outputs_of(model, x), rtol=1e-5, atol=1e-6)
    assert placement_of(made).layers == (made.graph.node[0].name,)


def test_a_layer_whose_output_something_else_reads_keeps_its_batch_norm():
    ones = np.ones(2, np.float32)
    nodes = [
        node("Conv", ["x", "w"], "c"),
        node("BatchNormalization", ["c", "s", "s", "s", "s"], "n"),
        node("Add", ["c", "n"], "y"),
    ]
    made = normalised(model_of(nodes, shape=(1, 1, 3, 3), w=np.ones((2, 1, 1, 1), np.float32), s=ones))
    assert [n.op_type for n in made.graph.node] == ["Conv", "BatchNormalization", "Add"]


COLUMN, SQUARE = RANDOM.standard_normal((3, 1)).astype(np.float32), RANDOM.standard_normal((3, 3)).astype(np.float32)


@pytest.mark.parametrize("added", [COLUMN, SQUARE])
@pytest.mark.parametrize(
    "nodes",
    [
        [node("Gemm", ["x", "w", "c"], "y", alpha=0.5)],
        [node("MatMul", ["x", "w"], "m"), node("Add", ["m", "c"], "y")],
    ],
)
def test_what_is_added_to_each_image_in_its_own_way_is_no_bias(nodes, added):
    model = model_of(nodes, shape=(3, 4), w=W, c=added)
    x = RANDOM.standard_normal((3, 4), dtype=np.float32)
    np.testing.assert_allclose(outputs_of(normalised(model), x), outputs_of(model, x), rtol=1e-5, atol=1e-6)


def in_training(op: str) -> onnx.ModelProto:
    """The export with one of its operators switched to what it does in training."""
    model = exported(opset_version=17, training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False)
    if op == "BatchNormalization":
        node = next(node for node in model.graph.node if node.op_type == op)
        next(entry for entry in node.attribute if entry.name == "training_mode").i = 1
        return model
    last = model.graph.node[-1]
    dropout = helper.make_node("Dropout", [last.output[0], "", "on"], ["dropped"], name="drop")
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(True), "on"))
    model.graph.node.append(dropout)
    model.graph.output[0].name = "dropped"
    return model


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("op", ["BatchNormalization", "Dropout"])
def test_a_graph_that_computes_as_in_training_is_not_taken_for_an_inference(op):
    with pytest.raises(InputError, match=rf"{op} node .* computes as in training; export the network in eval mode"):
        normalised(in_training(op))


def test_the_model_given_is_left_as_it_is():
    model = model_of([node("Gemm", ["x", "w", "b"], "y")], w=W, b=B)
    before = model.SerializeToString()
    normalised(model)
    assert model.SerializeToString() == before


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (model_of([node("Gemm", ["x", "w"], "y")], w=W.astype(np.float16)), r"'w' are float16; export .* float32"),
        (
            model_of([node("QuantizeLinear", ["x", "s"], "y")], s=np.float32(1)),
            "quantized already; use the float model",
        ),
    ],
)
def test_what_cannot_be_quantized_is_refused_in_one_line(model, message):
    with pytest.raises(InputError, match=message):
        normalised(model)


@pytest.mark.parametrize("rows", [[1, 12], [1, -1], [0, -1], [-1, 12]])
def test_a_reshape_to_one_row_an_image_takes_any_batch(rows):
    nodes = [node("Reshape", ["x", "rows"], "r"), node("Gemm", ["r", "w", "b"], "y")]
    weight = RANDOM.standard_normal((12, 3)).astype(np.float32)
    made = normalised(model_of(nodes, shape=(1, 3, 2, 2), rows=np.asarray(rows), w=weight, b=B))
    assert [n.op_type for n in made.graph.node] == ["Flatten", "Gemm"]
    x = RANDOM.standard_normal((1, 3, 2, 2), dtype=np.float32)
    np.testing.assert_allclose(outputs_of(made, x), x.reshape(1, 12) @ weight + B, rtol=1e-5, atol=1e-6)


def test_a_reshape_to_something_else_stays():
    made = normalised(model_of([node("Reshape", ["x", "rows"], "y")], shape=(1, 4, 2, 2), rows=np.asarray([2, 8])))
    assert [n.op_type for n in made.graph.node] == ["Reshape"]


def test_a_mean_over_computed_axes_stays_and_an_opset_that_cannot_be_raised_is_one_line():
    nodes = [
        node("Shape", ["x"], "s"),
        node("Slice", ["s", "one", "two"], "axes"),
        node("ReduceMean", ["x", "axes"], "y"),
    ]
    model = model_of(nodes, shape=("n", 2, 3, 3), one=np.asarray([2]), two=np.asarray([4]))
    model.opset_import[0].version = 18
    assert "ReduceMean" in [n.op_type for n in normalised(model).graph.node]
    old = model_of([node("Relu", ["x"], "y")])
    old.opset_import[0].domain = "ai.onnx.preview.training"
    with pytest.raises(InputError, match=r"opset 0 cannot be raised to 17: .*; export it again"):
        normalised(old)


@pytest.mark.parametrize("side", [7, 8])
@pytest.mark.parametrize("kind", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("op", ["Conv", "MaxPool"])
def test_auto_pad_becomes_the_pads_it_stands_for(op, kind, side):
    import onnxruntime as ort

    images = np.random.default_rng(0).standard_normal((1, 2, side, side)).astype(np.float32)
    weight = numpy_helper.from_array(np.random.default_rng(1).standard_normal((3, 2, 3, 3)).astype(np.float32), "w")
    shape = {} if op == "Conv" else {"kernel_shape": [3, 3]}
    node = helper.make_node(op, ["x", "w"][: 1 + (op == "Conv")], ["y"], "node", auto_pad=kind, strides=[2, 2], **shape)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, images.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [weight] if op == "Conv" else [],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    plain = normalised(model)
    assert not [entry for entry in plain.graph.node[0].attribute if entry.name == "auto_pad"]
    before, after = (
        ort.InferenceSession(one.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": images})[0]
        for one in (model, plain)
    )
    np.testing.assert_array_equal(before, after)
