"""A graph as a chain, stem | module_1 | ... | module_n | tail: the residual modules that can be dropped, and others.

What passes from one part to the next are the live tensors: one in most networks, several where branches are parallel. A
residual module can be dropped where its sum is all that is read of its branch, and it lies in no other module's branch.
Its skip leads back to the fork through nothing or what only moves, scales or projects; its branch is computed from the
fork alone and has layers and something that is not linear (a linear branch is a part of one convolution, as in a RepVGG
unit). The module ends behind the activation that follows the sum.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
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
_IS_LINEAR = "its branch is linear, and so a part of one convolution"
_SCOPE = re.compile(r"/?(.+)[./][^./]+")


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
    """`start`: what is read of the stem; `features`: what is pooled; `others`: a sum that ends no module -> why not."""

    start: tuple[str, ...]
    links: tuple[Droppable, ...]
    features: str
    others: dict[str, str]


def chain_in(view: GraphView, names: Mapping[str, str] | None = None) -> ModuleChain:
    """The plan of any graph with one output; without a module the stem reaches to the pooling.

    `names`: addition -> module, of a whole network of which `view` is what is left.
    """
    live = _live_after(view)
    at = {output: index for index, node in enumerate(view.nodes) for output in node.output}
    blocks = blocks_in(view)
    branches = {block.output: _made_from(view, block.branch, block.source) for block in blocks}
    reasons = {one.output: _why_not(view, one, branches[one.output], live[at[one.output]]) for one in blocks}
    whole = [output for output, reason in reasons.items() if reason in {"", _IS_LINEAR}]
    inside = {called(node) for output in whole for node in branches[output]}
    outer = [block for block in blocks if called(block.addition) not in inside]
    if names is not None:
        outer = [block for block in outer if called(block.addition) in names]
    given = _names_of(outer, branches) if names is None else [names[called(block.addition)] for block in outer]
    others, links = {}, []
    for block, name in zip(outer, given, strict=True):
        if reason := reasons[block.output]:
            others[name] = reason
        else:
            end = _end(view, at[block.output])
            links.append(Droppable(name, block, view.nodes[end].output[0], live[end]))
    behind = live[at[links[-1].end] :] if links else [tuple(view.inputs[:1]), *live]
    features = _features(view, [tensors[0] for tensors in behind if len(tensors) == 1])
    start = _start(view, links[0].block, branches[links[0].block.output], live) if links else (features,)
    return ModuleChain(start, tuple(links), features, others)


def _live_after(view: GraphView) -> list[tuple[str, ...]]:
    """After each node, the computed tensors that a later one reads, the oldest first."""
    last = {tensor: index for index, node in enumerate(view.nodes) for tensor in node.input}
    last |= dict.fromkeys(view.outputs, len(view.nodes))
    live, found = tuple(view.inputs[:1]), []
    for index, node in enumerate(view.nodes):
        made = (one for one in (*live, *node.output) if one not in view.constants)
        live = tuple(dict.fromkeys(one for one in made if last.get(one, -1) > index))
        found.append(live)
    return found


def _why_not(view: GraphView, block: Block, branch: Sequence[onnx.NodeProto], live: Sequence[str]) -> str:
    """The reason for which a block cannot be dropped; nothing if it can. `live`: what is read after its sum."""
    made = {output for node in branch for output in node.output}
    if made.intersection(live) or block.output not in live:
        return f"{min(made.intersection(live), default=block.output)!r} of its branch is read elsewhere"
    skip = list(_way_back(view, block.skip, block.source))
    odd = next((node for node in skip if node.op_type not in _OF_A_SKIP), None)
    if odd is not None:
        return f"its skip goes through {odd.op_type}, node {called(odd)!r}"
    if sum(node.op_type in WEIGHTED for node in skip) > 1:
        return "its skip has several layers"
    if all(node.op_type in _LINEAR for node in branch):
        return _IS_LINEAR
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


def _end(view: GraphView, index: int) -> int:
    """The node of the sum, or of the activation right behind that alone reads it."""
    while len(readers := view.readers.get(view.nodes[index].output[0], [])) == 1:
        node, place = readers[0]
        if place or node.op_type not in _ACTIVATIONS or node is not view.nodes[index + 1]:
            break
        index += 1
    return index


def _start(
    view: GraphView, first: Block, branch: Sequence[onnx.NodeProto], live: Sequence[tuple[str, ...]]
) -> tuple[str, ...]:
    """What is live before the first node of the first module, that of its skip or of its branch."""
    own = {called(node) for node in (*branch, *_way_back(view, first.skip, first.source))}
    begun = next(index for index, node in enumerate(view.nodes) if called(node) in own)
    return live[begun - 1] if begun else tuple(view.inputs[:1])


def _features(view: GraphView, cuts: Sequence[str]) -> str:
    """The first of `cuts`, tensors that alone are live, that is pooled, flattened or classified; else the first."""
    pooled = (one for one in cuts for node, _ in view.readers.get(one, []) if node.op_type in _POOLING)
    return next(pooled, cuts[0])


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
