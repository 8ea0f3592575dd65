"""A graph as a chain, stem | module_1 | ... | module_n | tail: the residual modules that can be dropped, and others.

What passes from one part to the next are the live tensors: one in most networks, several where branches are parallel. A
residual module that can be dropped (`graph.blocks`) ends behind the activation that follows the sum.

For whoever runs a graph in torch several outputs are one, each flattened, side by side; no file is written so.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import onnx
from onnx import helper

from edgeres.graph.blocks import Block, blocks_in, end_of, live_after
from edgeres.graph.view import GraphView, called

_POOLING = frozenset({"GlobalAveragePool", "ReduceMean", "AveragePool", "Flatten", "Reshape", "Gemm"})
JOINED = "joined outputs"  # no exporter's name has a space


@dataclass(frozen=True)
class Droppable:
    """A residual module that can be dropped: its sum in `block`, the tensor `end` that it leaves behind.

    `live`: all tensors that later parts read once it is done, `end` among them.
    """

    name: str
    block: Block
    end: str
    live: tuple[str, ...]


@dataclass(frozen=True)
class ModuleChain:
    """`start`: what is read of the stem; `features`: what is pooled; `others`: a sum that ends no module -> why not.

    Pooled, flattened or classified: the first tensor behind the modules of which that is so and which alone is live.
    """

    start: tuple[str, ...]
    links: tuple[Droppable, ...]
    features: str
    others: dict[str, str]


def chain_in(view: GraphView) -> ModuleChain:
    """The plan of any graph with one output; without a module the stem reaches to the pooling."""
    live = live_after(view)
    at = {output: index for index, node in enumerate(view.nodes) for output in node.output}
    others, links = {}, []
    for block in (one for one in blocks_in(view) if not one.is_inside):
        if block.why_not:
            others[block.name] = block.why_not
        else:
            end = end_of(view, block)
            links.append(Droppable(block.name, block, end, live[at[end]]))
    behind = live[at[links[-1].end] :] if links else [tuple(view.inputs[:1]), *live]
    cuts = [tensors[0] for tensors in behind if len(tensors) == 1]
    pooled = (one for one in cuts for node, _ in view.readers.get(one, []) if node.op_type in _POOLING)
    features = next(pooled, cuts[0])
    start = _start(view, links[0].block, live) if links else (features,)
    return ModuleChain(start, tuple(links), features, others)


def _start(view: GraphView, first: Block, live: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """What is live before the first node of the first module, that of its skip or of its branch."""
    begun = next(index for index, node in enumerate(view.nodes) if called(node) in first.nodes)
    return live[begun - 1] if begun else tuple(view.inputs[:1])


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
