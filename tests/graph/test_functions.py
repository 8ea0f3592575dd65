from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edgeres.core.errors import InputError
from edgeres.graph.execute import GraphNetwork
from edgeres.graph.operators import OPERATORS
from edgeres.models.weighted_layers import Operation

IMAGES = np.random.default_rng(0).standard_normal((3, 4, 6, 6)).astype(np.float32)
ROW = np.linspace(-1, 2, 4, dtype=np.float32)
COLUMN = ROW.reshape(4, 1, 1)
KERNEL = np.random.default_rng(1).standard_normal((4, 3, 2, 2)).astype(np.float32)


def integers(*values):
    return np.array(values, np.int64)


_KINDS = {"Shape": TensorProto.INT64}

CASES = [
    ("Sigmoid", [], {}, 17),
    ("HardSigmoid", [], {"alpha": 1 / 6, "beta": 0.5}, 17),
    ("HardSwish", [], {}, 17),
    ("LeakyRelu", [], {"alpha": 0.1}, 17),
    ("PRelu", [COLUMN], {}, 17),
    ("Elu", [], {"alpha": 0.5}, 17),
    ("Gelu", [], {}, 20),
    ("Gelu", [], {"approximate": "tanh"}, 20),
    ("Erf", [], {}, 17),
    ("Tanh", [], {}, 17),
    ("Softplus", [], {}, 17),
    ("Mish", [], {}, 18),
    ("Exp", [], {}, 17),
    ("Neg", [], {}, 17),
    ("Abs", [], {}, 17),
    ("Pow", [np.float32(2)], {}, 17),
    ("Div", [COLUMN + 2], {}, 17),
    ("Min", [COLUMN], {}, 17),
    ("Max", [COLUMN], {}, 17),
    ("Concat", [IMAGES[:1] * np.ones((3, 1, 1, 1), np.float32)], {"axis": 1}, 17),
    ("Transpose", [], {"perm": [0, 2, 3, 1]}, 17),
    ("Transpose", [], {}, 17),
    ("Unsqueeze", [integers(-1, 0)], {}, 17),
    ("Gather", [integers(2, -1)], {"axis": 1}, 17),
    ("Gather", [np.int64(1)], {"axis": 2}, 17),
    ("Shape", [], {}, 17),
    ("Shape", [], {"start": 1, "end": -1}, 17),
    ("Expand", [integers(2, 1, 1, 1, 6)], {}, 17),
    ("Softmax", [], {"axis": 1}, 17),
    ("LayerNormalization", [np.ones(6, np.float32) * 1.5, np.ones(6, np.float32)], {"axis": -1}, 17),
    ("LayerNormalization", [np.ones((6, 6), np.float32)], {"axis": 2, "epsilon": 1e-3}, 17),
    ("GroupNormalization", [ROW, ROW], {"num_groups": 2}, 21),
    ("InstanceNormalization", [ROW, ROW], {}, 17),
    ("LpNormalization", [], {"axis": 1}, 17),
    ("GlobalMaxPool", [], {}, 17),
    ("ReduceMean", [], {"axes": [1], "keepdims": 0}, 17),
    ("ReduceMean", [integers(-1)], {}, 18),
    ("ReduceMean", [], {}, 17),
    ("ReduceSum", [integers(2, 3)], {"keepdims": 0}, 17),
    ("ReduceMax", [], {"axes": [2]}, 17),
    ("ReduceL2", [], {"axes": [2, 3]}, 17),
    ("ConvTranspose", [KERNEL], {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}, 17),
    ("Resize", [None, np.array([1, 1, 2, 2], np.float32)], {"coordinate_transformation_mode": "asymmetric",
                                                           "nearest_mode": "floor"}, 17),
    ("Resize", [None, None, integers(3, 4, 9, 12)], {"mode": "linear"}, 17),
    ("Resize", [None, None, integers(3, 4, 9, 12)], {"mode": "linear",
                                                     "coordinate_transformation_mode": "align_corners"}, 17),
    ("Pad", [integers(0, 0, 1, 2, 0, 0, 0, 1)], {"mode": "reflect"}, 17),
    ("Pad", [integers(0, 0, 1, 2, 0, 0, 0, 1)], {"mode": "edge"}, 17),
]  # fmt: skip


def model_of(op, given, attributes, opset, outputs=("out",)):
    stored = [numpy_helper.from_array(np.asarray(one), f"c{i}") for i, one in enumerate(given) if one is not None]
    names = ["" if one is None else f"c{i}" for i, one in enumerate(given)]
    graph = helper.make_graph(
        [helper.make_node(op, ["images", *names], list(outputs), "node", **attributes)],
        "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, IMAGES.shape)],
        [helper.make_tensor_value_info(name, _KINDS.get(op, TensorProto.FLOAT), None) for name in outputs],
        stored,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def onnx_runtime(model):
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        None, {"images": IMAGES}
    )


@pytest.mark.parametrize(("op", "given", "attributes", "opset"), CASES)
def test_an_operator_gives_what_onnx_runtime_gives(op, given, attributes, opset):
    model = model_of(op, given, attributes, opset)
    with torch.no_grad():
        found = GraphNetwork(model)(torch.from_numpy(IMAGES)).numpy()
    (expected,) = onnx_runtime(model)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("given", "attributes", "opset"), [([integers(1, 3)], {}, 17), ([], {"num_outputs": 2}, 18)])
def test_a_node_of_several_outputs_gives_all(given, attributes, opset):
    model = model_of("Split", given, {"axis": 1, **attributes}, opset, ("a", "b"))
    with torch.no_grad():
        found = GraphNetwork(model).values(torch.from_numpy(IMAGES), ["a", "b"])
    for name, expected in zip(("a", "b"), onnx_runtime(model), strict=True):
        np.testing.assert_array_equal(found[name].numpy(), expected)


@pytest.mark.parametrize(("op", "given", "attributes", "opset"), CASES)
def test_an_operator_goes_where_its_input_is(op, given, attributes, opset):
    fixed = {place: None if one is None else torch.from_numpy(np.array(one)) for place, one in enumerate(given, 1)}
    operation, images = Operation(model_of(op, given, attributes, opset).graph.node[0], fixed), torch.from_numpy(IMAGES)
    here, there = operation(images), operation(images.to("meta"))
    assert there.shape == here.shape
    assert there.device.type == ("cpu" if op == "Shape" else "meta")


def test_every_function_has_a_case():
    from edgeres.graph.operators import FUNCTIONS

    elsewhere = {"Split", "Squeeze", "Sqrt", "Reciprocal"}
    assert FUNCTIONS.keys() <= {case[0] for case in CASES} | elsewhere


@pytest.mark.parametrize(
    ("op", "attributes", "said"),
    [
        ("Resize", {"mode": "cubic"}, "Resize with mode cubic"),
        ("ConvTranspose", {"pads": [0, 0, 1, 1]}, "uneven padding"),
        ("Pad", {"mode": b"wrap"}, "Pad with mode wrap"),
        ("Conv", {"pads": [1, 1, 1, 1, 1, 1]}, "cannot execute 3 dimensions"),
    ],
)
def test_what_torch_cannot_do_is_said(op, attributes, said):
    with pytest.raises(InputError, match=said):
        OPERATORS[op]({key: one.encode() if isinstance(one, str) else one for key, one in attributes.items()})
