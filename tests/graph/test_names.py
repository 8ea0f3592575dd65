from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgeres.graph.names import tidy


def test_constants_that_one_node_takes_any_number_of_keep_their_values():
    nodes = [helper.make_node("Concat", ["/a", "x", "/b", "/a"], ["y"], "/head/Concat", axis=1)]
    stored = [
        numpy_helper.from_array(np.full((1, 2), value, np.float32), name) for value, name in ((1, "/a"), (2, "/b"))
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size]) for name, size in (("x", 2), ("y", 8))]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], stored)
    made = tidy(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))
    (given,) = ReferenceEvaluator(made).run(None, {"x": np.zeros((1, 2), np.float32)})
    assert given.tolist() == [[1, 1, 0, 0, 2, 2, 1, 1]]
