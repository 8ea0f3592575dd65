"""A graph as a chain, stem | module_1 | ... | module_n | tail: the residual modules that can be dropped, and others.

A cut is a tensor that is all that later nodes read of what came before. A residual module can be dropped where its sum
is a cut: nothing passes beside it, nothing of its branch is read elsewhere, and it lies in no other module's branch.
Its skip leads back to the fork through nothing or what only moves, scales or projects; its branch is computed from the
fork alone and has layers and something that is not linear (a linear branch is a part of one convolution, as in a RepVGG
unit). The module ends behind the activation that follows the sum.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

import onnx

from edgeres.graph.blocks import Block, blocks_in
from edgeres.graph.view import WEIGHTED, GraphView, called

_ACTIVATIONS = frozenset({"Relu", "Clip", "LeakyRelu", "PRelu", "HardSwish", "Elu", "BatchNormalization"})
_MOVES = frozenset(
    {"Identity", "Transpose", "Reshape", "Flatten", "Split", "Slice", "Pad", "Gather", "Squeeze", "Unsqueeze", "Cast"}
)
_SCALES = frozenset({"BatchNormalization", "Mul", "Div", "AveragePool", "GlobalAveragePool", "ReduceMean"})
_LINEAR = WEIGHTED | _MOVES | _SCALES | {"Add", "Sub", "Concat"}
_OF_A_SKIP = WEIGHTED | _MOVES | _SCALES | {"MaxPool"}
_POOLING = frozenset({"GlobalAveragePool", "ReduceMean", "AveragePool", "Flatten", "Reshape", "Gemm"})
_SCOPE = re.compile(r"/?(.+)[./][^./]+")


@dataclass(frozen=True)
class Droppable:
    """A residual module that can be dropped, its sum in `block`; what it leaves in the chain is called `end`."""

    name: str
    block: Block
    end: str


@dataclass(frozen=True)
class ModuleChain:
    """`start`: where the stem ends; `features`: what is pooled; `others`: a sum that ends no such module -> why not."""

    start: str
    links: tuple[Droppable, ...]
    features: str
    others: dict[str, str]


def chain_in(view: GraphView, names: Mapping[str, str] | None = None) -> ModuleChain:
    """The plan of any graph with one output; without a module the stem reaches to the pooling.

    `names`: addition -> module, of a whole network of which `view` is what is left.
    """
    cuts = _cuts_in(view)
    blocks = blocks_in(view)
    branches = {block.output: _made_from(view, block.branch, block.source) for block in blocks}
    inside = {called(node) for block in blocks if block.output in cuts for node in branches[block.output]}
    outer = [block for block in blocks if called(block.addition) not in inside]
    others, links = {}, []
    if names is not None:
        outer = [block for block in outer if called(block.addition) in names]
    given = _names_of(outer, branches) if names is None else [names[called(block.addition)] for block in outer]
    for block, name in zip(outer, given, strict=True):
        if reason := _why_not(view, block, branches[block.output], cuts):
            others[name] = reason
        else:
            links.append(Droppable(name, block, _end(view, block.output, cuts)))
    order = [*view.inputs[:1], *(output for node in view.nodes for output in node.output if output in cuts)]
    features = _features(view, order[order.index(links[-1].end) if links else 0 :])
    start = _start(view, links[0].block, order) if links else features
    return ModuleChain(start, tuple(links), features, others)


def _cuts_in(view: GraphView) -> set[str]:
    last = {tensor: index for index, node in enumerate(view.nodes) for tensor in node.input}
    last |= dict.fromkeys(view.outputs, len(view.nodes))
    live = set(view.inputs[:1])
    found = set(live)
    for index, node in enumerate(view.nodes):
        live = {one for one in (*live, *node.output) if last.get(one, -1) > index and one not in view.constants}
        found |= live if len(live) == 1 else set()
    return found


def _why_not(view: GraphView, block: Block, branch: Sequence[onnx.NodeProto], cuts: set[str]) -> str:
    """The reason for which a block cannot be dropped; nothing if it can."""
    skip = list(_way_back(view, block.skip, block.source))
    odd = next((node for node in skip if node.op_type not in _OF_A_SKIP), None)
    if block.output not in cuts:
        return "other tensors pass beside its sum, or something of its branch is read elsewhere"
    if odd is not None:
        return f"its skip goes through {odd.op_type}, node {called(odd)!r}"
    if sum(node.op_type in WEIGHTED for node in skip) > 1:
        return "its skip has several layers"
    if all(node.op_type in _LINEAR for node in branch):
        return "its branch is linear, and so a part of one convolution"
    made = {output for node in branch for output in node.output}
    beside = {one for node in branch for one in node.input if one and one not in view.constants} - made - {block.source}
    return f"its branch also reads {min(beside)!r}" if beside else ""


def _way_back(view: GraphView, tensor: str, source: str) -> Iterator[onnx.NodeProto]:
    """The nodes along first computed inputs."""
    while tensor != source:
        yield (node := view.producers[tensor])
        tensor = view.passed_on(node)


def _made_from(view: GraphView, tensor: str, source: str) -> list[onnx.NodeProto]:
    """Every node that `tensor` needs, back to `source`, in the graph's order."""
    needed, open_ = set[str](), [tensor]
    while open_:
        one = open_.pop()
        node = view.producers.get(one)
        if node is None or one in view.constants or one == source or called(node) in needed:
            continue
        needed.add(called(node))
        open_ += node.input
    return [node for node in view.nodes if called(node) in needed]


def _end(view: GraphView, tensor: str, cuts: set[str]) -> str:
    """`tensor`, or what the activation makes of it that alone reads it."""
    while len(readers := view.readers.get(tensor, [])) == 1:
        node, index = readers[0]
        if index or node.op_type not in _ACTIVATIONS or node.output[0] not in cuts:
            break
        tensor = node.output[0]
    return tensor


def _start(view: GraphView, first: Block, order: Sequence[str]) -> str:
    """The last cut before the first module: the fork itself unless something passes beside it."""
    if first.source in order:
        return first.source
    begun = next(index for index, node in enumerate(view.nodes) if called(node) in first.nodes)
    earlier = {output for node in view.nodes[:begun] for output in node.output}
    return [tensor for tensor in order if tensor in earlier or tensor in view.inputs][-1]


def _features(view: GraphView, cuts: Iterable[str]) -> str:
    """The first of `cuts` that is pooled, flattened or classified; the first of all if none is."""
    found = list(cuts)
    pooled = (one for one in found for node, _ in view.readers.get(one, []) if node.op_type in _POOLING)
    return next(pooled, found[0])


def _names_of(blocks: Sequence[Block], branches: dict[str, list[onnx.NodeProto]]) -> list[str]:
    """The module's own name where the exporter tells it, by the node or the weights; otherwise the addition's."""
    scopes = [
        match[1].replace("/", ".") if (match := _SCOPE.fullmatch(block.addition.name)) else "" for block in blocks
    ]
    weights = [_shared_path(branches[block.output]) for block in blocks]
    names: list[str] = []
    counts = [Counter(scopes), Counter(weights)]
    for block, *proposed in zip(blocks, scopes, weights, strict=True):
        fit = (name for name, count in zip(proposed, counts, strict=True) if name and count[name] == 1)
        names.append(next((name for name in fit if name not in names), called(block.addition)))
    return names


def _shared_path(branch: Sequence[onnx.NodeProto]) -> str:
    """What the names of the weights of all its layers begin with, up to a dot."""
    paths = [node.input[1].split(".") for node in branch if node.op_type in WEIGHTED and len(node.input) > 1]
    same = takewhile(lambda parts: len({*parts}) == 1, zip(*paths, strict=False))
    return ".".join(parts[0] for parts in same)
