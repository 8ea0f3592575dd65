"""Several outputs as one, for whoever runs a graph in torch: each flattened, side by side. No file is written so.

(N, 8, 4, 4), (N, 6)  ->  (N, 134)
"""

from __future__ import annotations

from copy import deepcopy

import onnx
from onnx import helper

JOINED = "joined outputs"  # no exporter's name has a space


def joined(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` itself if it has one output, otherwise a copy that gives all of them as JOINED, (N, sum of sizes)."""
    names = [value.name for value in model.graph.output]
    if len(names) < 2:
        return model
    copy = deepcopy(model)
    flat = [f"{JOINED} {name}" for name in names]
    pairs = zip(names, flat, strict=True)
    copy.graph.node.extend(helper.make_node("Flatten", [name], [end], name=end, axis=1) for name, end in pairs)
    copy.graph.node.append(helper.make_node("Concat", flat, [JOINED], name=JOINED, axis=1))
    del copy.graph.output[:]
    copy.graph.output.append(helper.make_tensor_value_info(JOINED, onnx.TensorProto.FLOAT, None))
    return copy
