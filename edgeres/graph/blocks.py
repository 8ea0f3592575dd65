r"""Which nodes of a graph are a residual module, and its name: ONE rule, for every file that a network passes through.

    x --(fork)--> branch: the side with more layers --> Add      A module is what lies between the fork and the
      \---------> skip: the other one ---------------^           addition, with the addition.

Ways back from an addition follow first computed inputs. The skip has fewer layers back to the fork, then fewer weights,
then it comes first. Where no layer stands on either way, or where the ways never meet, the addition ends no module.

A module can be dropped where its sum is all that is read of its branch, and it lies in no other module's branch. Its
skip leads back to the fork through nothing or what only moves, scales or projects; its branch is computed from the
fork alone and has layers and something that is not linear (a linear branch is a part of one convolution, as in a RepVGG
unit).

A module is called, by the first of these that is there and is no other's:
1. what it was called in the whole network, where the file brings that network's structure
2. the scope of its addition: layer2.1 of layer2.1.add and of /layer2/layer2.1/Add
3. what the names of all its layers begin with
4. what its addition is called
An addition inside the branch of another module has its own name. layer2.1.skip is the skip of a module alone: its
layers stay in INT8, its sum is float.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import takewhile, zip_longest
from typing import TYPE_CHECKING

import numpy as np

from edgeres.core.errors import InputError, did_you_mean
from edgeres.graph.view import QDQ, WEIGHTED, GraphView, called, scope_of

if TYPE_CHECKING:
    import onnx

SKIP = ".skip"
_SEEN_THROUGH = QDQ | {"BatchNormalization"}
_ACTIVATIONS = frozenset({"Relu", "Clip", "LeakyRelu"})
_AFTER_A_SUM = _ACTIVATIONS | {"PRelu", "HardSwish", "Elu", "BatchNormalization"}
_MOVES = QDQ | {
    *("Identity", "Transpose", "Reshape", "Flatten", "Split", "Slice", "Pad", "Gather", "Squeeze", "Unsqueeze", "Cast"),
}
_SCALES = frozenset({"BatchNormalization", "Mul", "Div", "AveragePool", "GlobalAveragePool", "ReduceMean"})
_LINEAR = WEIGHTED | _MOVES | _SCALES | {"Add", "Sub", "Concat"}
_OF_A_SKIP = WEIGHTED | _MOVES | _SCALES | {"MaxPool"}
_IS_LINEAR = "its branch is linear, and so a part of one convolution"
_ROLE = ".weight"
_OURS = re.compile(r"(layer\d+\.\d+)\.")
_Way = dict[str, tuple[int, int]]  # tensor, nearest first -> (layers, weights) on the way back to it


@dataclass(frozen=True)
class Block:
    """The nodes between the tensor `source` and the residual `addition`, whose input `skip_index` is the skip.

    `nodes`: their names in the graph's order, a nameless one's output. `why_not`: the reason for which it cannot be
    dropped, nothing if it can. `is_inside`: it lies in the branch of another one.
    """

    name: str
    addition: onnx.NodeProto
    skip_index: int
    source: str
    nodes: tuple[str, ...] = ()
    why_not: str = ""
    is_inside: bool = False

    @property
    def skip(self) -> str:
        """The tensor that is added to what the branch makes."""
        return str(self.addition.input[self.skip_index])

    @property
    def branch(self) -> str:
        """What the module's layers make."""
        return str(self.addition.input[1 - self.skip_index])

    @property
    def output(self) -> str:
        """The sum."""
        return str(self.addition.output[0])


def blocks_in(view: GraphView) -> list[Block]:
    """The residual modules in the graph's order of their additions."""
    blocks = list(_additions_in(view))
    branches = {block.output: _made_from(view, block.branch, block.source) for block in blocks}
    reasons = {one.output: _why_not(view, one, branches[one.output]) for one in blocks}
    whole = [output for output, reason in reasons.items() if reason in {"", _IS_LINEAR}]
    inside = {output for end in whole for node in branches[end] for output in node.output}
    names = _names_of(view, [block for block in blocks if block.output not in inside], branches)
    return [
        replace(
            block,
            name=names.get(block.output, block.name),
            nodes=_between(view, block),
            why_not=reasons[block.output],
            is_inside=block.output in inside,
        )
        for block in blocks
    ]


def live_after(view: GraphView) -> list[tuple[str, ...]]:
    """After each node, the computed tensors that a later one reads, the oldest first."""
    last = {tensor: index for index, node in enumerate(view.nodes) for tensor in node.input}
    last |= dict.fromkeys(view.outputs, len(view.nodes))
    live, found = tuple(view.inputs[:1]), []
    for index, node in enumerate(view.nodes):
        made = (one for one in (*live, *node.output) if one not in view.constants)
        live = tuple(dict.fromkeys(one for one in made if last.get(one, -1) > index))
        found.append(live)
    return found


def end_of(view: GraphView, block: Block) -> str:
    """The sum, or what the activation right behind makes of it that alone reads it."""
    index = next(index for index, node in enumerate(view.nodes) if node is block.addition)
    while len(readers := view.readers.get(end := view.nodes[index].output[0], [])) == 1:
        node, place = readers[0]
        if end in view.outputs or place or node.op_type not in _AFTER_A_SUM or node is not view.nodes[index + 1]:
            break
        index += 1
    return str(view.nodes[index].output[0])


def made_of(view: GraphView, tensor: str) -> str:
    """What becomes of a sum in a file of another tool that puts the pair before the ReLU, or in its place.

    The ReLU behind the pair, or the pair if it cuts off what is negative; else the tensor itself.
    """
    pair = _alone_behind(view, tensor)
    end = pair and pair.op_type == "QuantizeLinear" and _alone_behind(view, pair.output[0])
    if not (pair and end) or view.op_of(tensor) in _AFTER_A_SUM:
        return tensor
    behind = _alone_behind(view, end.output[0])
    if behind is not None and behind.op_type in _AFTER_A_SUM:
        return str(behind.output[0])
    zero = view.value(pair.input[2]) if len(pair.input) > 2 and pair.input[2] else np.zeros(1, np.uint8)
    is_cut = zero is not None and zero.dtype.kind in "iu" and (zero == np.iinfo(zero.dtype).min).all()
    return str(end.output[0]) if is_cut else tensor


def _alone_behind(view: GraphView, tensor: str) -> onnx.NodeProto | None:
    readers = view.readers.get(tensor, [])
    return readers[0][0] if readers and all(node.op_type == readers[0][0].op_type for node, _ in readers) else None


def fusions_in(view: GraphView) -> list[Block]:
    """The additions of `blocks_in` as they are fused: `branch` ends in the layer, `skip` has to be quantized for it.

    They are those of the module, unless its skip alone is a layer's output, as the lateral convolution of a feature
    pyramid is.
    """
    found = []
    for block in _additions_in(view):
        turned = _ends_layer(view, block.skip) and not _ends_layer(view, block.branch, _ACTIVATIONS)
        found.append(replace(block, skip_index=1 - block.skip_index) if turned else block)
    return found


def _additions_in(view: GraphView) -> Iterator[Block]:
    """The blocks with nothing known but the two ways, named after their additions."""
    for addition in view.additions:
        ways, source = _ways_to_fork(view, addition)
        if source is not None and any(way[source][0] for way in ways):
            yield Block(called(addition), addition, 0 if ways[0][source] <= ways[1][source] else 1, source)


def module_of(node_name: str) -> str | None:
    """The module a node belongs to by its name, as `edgeres export` writes them."""
    match = _OURS.match(node_name)
    return match[1] if match else None


def modules_in(view: GraphView) -> dict[str, tuple[str, ...]]:
    """Module -> its nodes, in the graph's order, each once; only modules with a convolution or fully connected layer.

    Those of networks of our own are told by the nodes' names, which networks without additions have as well.
    """
    named, found, seen = dict[str, tuple[str, ...]](), dict[str, tuple[str, ...]](), set[str]()
    for node in view.nodes:
        if module := module_of(node.name):
            named[module] = (*named.get(module, ()), node.name)
    for block in (one for one in blocks_in(view) if not one.is_inside):
        found[block.name] = tuple(node for node in block.nodes if node not in seen)
        seen.update(block.nodes)
    layers = {called(layer) for layer in view.layers}
    named, found = (  # pairs of weights bear names of modules too, whoever named the nodes
        {name: nodes for name, nodes in modules.items() if layers.intersection(nodes)} for modules in (named, found)
    )
    return named if found.keys() <= named.keys() else found


def units_in(view: GraphView) -> dict[str, tuple[str, ...]]:
    """Unit -> its nodes, in the graph's order: the modules and every layer outside of them."""
    modules = modules_in(view)
    home = {node: name for name, nodes in modules.items() for node in nodes}
    names = dict.fromkeys(home.get(layer.name, layer.name) for layer in view.layers)
    return {name: modules.get(name, (name,)) for name in names}


def skips_in(view: GraphView) -> dict[str, str]:
    """`MODULE.skip` -> the residual addition that ends the module, in the graph's order."""
    modules = modules_in(view)
    return {f"{block.name}{SKIP}": called(block.addition) for block in blocks_in(view) if block.name in modules}


def nodes_named(view: GraphView, names: Iterable[str]) -> set[str]:
    """The nodes that `names` of layers, modules and skips (`skips_in`) stand for.

    Raises:
        InputError: a name that is none of them.
    """
    modules = modules_in(view)
    known: dict[str, tuple[str, ...]] = {name: (node,) for name, node in skips_in(view).items()}
    known |= {called(layer): (called(layer),) for layer in view.layers} | modules
    found: set[str] = set()
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known)
            raise InputError(
                f"the graph has no layer or module {name!r}{hint}; modules: {', '.join(modules) or 'none'}"
            )
        found.update(known[name])
    return found


def _ways_to_fork(view: GraphView, addition: onnx.NodeProto) -> tuple[tuple[_Way, _Way], str | None]:
    """The ways back from both inputs, and the tensor where they meet; None if they never do."""
    ways: tuple[_Way, _Way] = ({}, {})
    for steps in zip_longest(*(_way_back(view, tensor) for tensor in addition.input)):
        for way, step in zip(ways, steps, strict=True):
            if step is not None:
                way[step[0]] = step[1]
        for tensor in (step[0] for step in steps if step is not None):
            if all(tensor in way for way in ways):
                return ways, tensor
    return ways, None


def _way_back(view: GraphView, tensor: str) -> Iterator[tuple[str, tuple[int, int]]]:
    """`tensor` and what it is made from, nearest first, each with the (layers, weights) on the way."""
    layers, weights, seen = 0, 0, {tensor}
    yield tensor, (layers, weights)
    while (node := view.producers.get(tensor)) is not None and node.input:
        if node.op_type in WEIGHTED:
            layers += 1
            weights += _weight_size(view, node)
        tensor = view.passed_on(node)
        if tensor in seen:
            return
        seen.add(tensor)
        yield tensor, (layers, weights)


def _between(view: GraphView, block: Block) -> tuple[str, ...]:
    """The nodes through which the sum depends on the fork, the addition among them."""
    needed = _made_from(view, block.output, block.source)
    reached, found = {block.source}, []
    for node in needed:
        if reached.intersection(node.input):
            reached.update(node.output)
            found.append(called(node))
    return tuple(found)


def _made_from(view: GraphView, tensor: str, source: str) -> list[onnx.NodeProto]:
    """Every node that `tensor` needs, back to `source`, in the graph's order."""
    needed = view.made_from([tensor], until={source, *view.constants})
    return [node for node in view.nodes if not needed.isdisjoint(node.output)]


def _why_not(view: GraphView, block: Block, branch: Sequence[onnx.NodeProto]) -> str:
    """The reason for which a block cannot be dropped; nothing if it can."""
    made, own = {output for node in branch for output in node.output}, {id(node) for node in (*branch, block.addition)}
    elsewhere = {tensor for node in view.nodes if id(node) not in own for tensor in node.input}.union(view.outputs)
    if (shared := made & elsewhere) or block.output not in elsewhere:
        return f"{min(shared, default=block.output)!r} of its branch is read elsewhere"
    skip = [
        view.producers[tensor]
        for tensor, _ in takewhile(lambda one: one[0] != block.source, _way_back(view, block.skip))
    ]
    odd = next((node for node in skip if node.op_type not in _OF_A_SKIP), None)
    if odd is not None:
        return f"its skip goes through {odd.op_type}, node {called(odd)!r}"
    if sum(node.op_type in WEIGHTED for node in skip) > 1:
        return "its skip has several layers"
    if all(node.op_type in _LINEAR for node in branch):
        return _IS_LINEAR
    beside = {one for node in branch for one in node.input if one and one not in view.constants} - made - {block.source}
    return f"its branch also reads {min(beside)!r}" if beside else ""


def _names_of(
    view: GraphView, blocks: Sequence[Block], branches: Mapping[str, Sequence[onnx.NodeProto]]
) -> dict[str, str]:
    """Sum -> what its module is called."""
    if told := _told(view.card) if view.card is not None else {}:
        return {block.output: told[block.name] for block in blocks if block.name in told}
    scopes = [scope_of(block.name) for block in blocks]
    weights = [_shared_path(view, branches[block.output]) for block in blocks]
    names, counts = dict[str, str](), (Counter(scopes), Counter(weights))
    for block, *proposed in zip(blocks, scopes, weights, strict=True):
        fit = (name for name, count in zip(proposed, counts, strict=True) if name and count[name] == 1)
        names[block.output] = next((name for name in fit if name not in names.values()), block.name)
    return names


@lru_cache(maxsize=8)
def _told(card: str) -> dict[str, str]:
    """Addition -> its module in the whole network, of a card that brings the network's structure."""
    from edgeres.graph.structure import unpacked

    structure = json.loads(card).get("spec", {}).get("structure")
    blocks = blocks_in(GraphView(unpacked(structure))) if structure else []
    return {called(block.addition): block.name for block in blocks if not block.is_inside}


def _shared_path(view: GraphView, branch: Sequence[onnx.NodeProto]) -> str:
    """What the names of all its layers begin with, up to a dot."""
    paths = [
        _path_of(view, node).split(".")[:-1] for node in branch if node.op_type in WEIGHTED and len(node.input) > 1
    ]
    same = takewhile(lambda parts: len({*parts}) == 1, zip(*paths, strict=False))
    return ".".join(parts[0] for parts in same)


def _path_of(view: GraphView, layer: onnx.NodeProto) -> str:
    """What a layer is called: as its weight, behind its pair, or as on import where that has no name of torch's."""
    weight, pair, name = str(layer.input[1]), view.weight_pair(layer), called(layer)
    if pair is not None:
        weight = str(pair.input[0] if pair.input[0] in view.constants else view.source_of(pair))
    return weight.rpartition(_ROLE)[0] or (scope_of(name) if "/" in name else name)


def _ends_layer(view: GraphView, tensor: str, behind: frozenset[str] = frozenset()) -> bool:
    """Whether a layer puts `tensor` out; a batch norm, pairs and the operators `behind` it are seen through."""
    node = view.producers.get(tensor)
    while node is not None and node.op_type in _SEEN_THROUGH | behind:
        node = view.maker_of(node)
    return node is not None and node.op_type in WEIGHTED


def _weight_size(view: GraphView, layer: onnx.NodeProto) -> int:
    """Number of a layer's weights, seen through their pair; 0 where they are computed."""
    tensor = layer.input[1] if len(layer.input) > 1 else ""
    if (pair := view.weight_pair(layer)) is not None:
        tensor = pair.input[0] if pair.input[0] in view.constants else view.source_of(pair) or ""
    return math.prod(view.constants[tensor].dims) if tensor in view.constants else 0
