from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeres.core.errors import InputError
from edgeres.graph.opset import at_opset, oldest_opset

IMAGES = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)
ROWS = np.random.default_rng(1).uniform(1, 2, (1, 4)).astype(np.float32)
MEAN = np.zeros(4, np.float32)
ARRAYS = {"rows": ROWS, "shape": np.array([4, 2]), "mean": MEAN, "variance": ROWS[0]}
PAIRS = [(op, ["x", "rows"], {}) for op in ("Add", "Sub", "Mul", "Div", "PRelu", "Pow")]
OTHERS = [
    ("Relu", ["x"], {}),
    ("LeakyRelu", ["x"], {"alpha": 0.2}),
    ("Identity", ["x"], {}),
    ("Reshape", ["x", "shape"], {"allowzero": 0}),
    ("BatchNormalization", ["x", "variance", "mean", "mean", "variance"], {"training_mode": 0}),
]


def model_of(op, given, attributes, opset):
    nodes = [helper.make_node(op, given, ["z"], "node", **attributes), helper.make_node("Sigmoid", ["z"], ["y"], "end")]
    stored = [numpy_helper.from_array(ARRAYS[name], name) for name in dict.fromkeys(given) if name in ARRAYS]
    shape = [4, 2] if op == "Reshape" else [2, 4]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name, size in (("x", [2, 4]), ("y", shape))
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def values_of(model):
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.abs(IMAGES)})[0]


@pytest.mark.parametrize(("op", "given", "attributes"), [*PAIRS, *OTHERS])
def test_an_operator_whose_types_alone_grew_is_lowered_as_it_is(op, given, attributes):
    model = model_of(op, given, attributes, 17)
    lowered = at_opset(model, 13)
    assert [entry.version for entry in lowered.opset_import] == [13]
    assert [node.op_type for node in lowered.graph.node] == [op, "Sigmoid"]
    np.testing.assert_array_equal(values_of(lowered), values_of(model))
    assert [entry.version for entry in model.opset_import] == [17]


@pytest.mark.parametrize(
    ("op", "given", "attributes", "oldest"),
    [
        ("HardSwish", ["x"], {}, 14),
        ("LayerNormalization", ["x", "variance"], {}, 17),
        ("Reshape", ["x", "shape"], {"allowzero": 1}, 14),
    ],
)
def test_one_that_is_another_there_is_refused_with_the_opset_that_works(op, given, attributes, oldest):
    model = model_of(op, given, attributes, 18)
    said = rf"opset 18 cannot be lowered to 13: {op} cannot be written so; take {oldest} \(--opset\)"
    with pytest.raises(InputError, match=said):
        at_opset(model, 13)
    assert oldest_opset(model, 13) == oldest_opset(model, oldest) == oldest
    assert at_opset(model, oldest).opset_import[0].version == oldest
