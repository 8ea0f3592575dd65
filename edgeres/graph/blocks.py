r"""Which nodes of a graph are a residual module: ONE rule, used to place pairs, to lint, to leave float and to report.

    x --(fork)--> branch: the side with more layers --> Add      A module is what lies between the fork and the
      \---------> skip: the other one ---------------^           addition, with the addition.

Ways back from an addition follow first computed inputs. The skip has fewer layers back to the fork, then fewer weights,
then it comes first. Where no layer stands on either way, or where the ways never meet, the addition ends no module.

layer2.1.conv1, layer2.1.add, ...   module layer2.1: the names that edgeres export writes
any other graph                     the module is named after its addition
layer2.1.skip                       the skip of a module alone: its layers stay in INT8, its sum is float
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import takewhile, zip_longest
from typing import TYPE_CHECKING

from edgeres.core.errors import InputError, did_you_mean
from edgeres.graph.view import QDQ, WEIGHTED, GraphView, called

if TYPE_CHECKING:
    import onnx

SKIP = ".skip"
_SEEN_THROUGH = QDQ | {"BatchNormalization"}
_ACTIVATIONS = frozenset({"Relu", "Clip", "LeakyRelu"})
_OURS = re.compile(r"(layer\d+\.\d+)\.")
_Way = dict[str, tuple[int, int]]  # tensor, nearest first -> (layers, weights) on the way back to it


@dataclass(frozen=True)
class Block:
    """The nodes between the tensor `source` and the residual `addition`, whose input `skip_index` is the skip.

    `nodes`: their names in the graph's order, a nameless one's output.
    """

    name: str
    addition: onnx.NodeProto
    skip_index: int
    source: str
    nodes: tuple[str, ...]

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
    found = []
    for addition in view.additions:
        ways, source = _ways_to_fork(view, addition)
        if source is None or not any(way[source][0] for way in ways):
            continue
        skip = 0 if ways[0][source] <= ways[1][source] else 1
        own = {addition.output[0]}.union(*(takewhile(source.__ne__, way) for way in ways))
        nodes = tuple(called(node) for node in view.nodes if own.intersection(node.output))
        found.append(Block(module_of(addition.name) or called(addition), addition, skip, source, nodes))
    return found


def fusions_in(view: GraphView) -> list[Block]:
    """`blocks_in` as their additions are fused: `branch` ends in the layer, `skip` is what has to be quantized for it.

    They are those of the module, unless its skip alone is a layer's output, as the lateral convolution of a feature
    pyramid is.
    """
    found = []
    for block in blocks_in(view):
        turned = _ends_layer(view, block.skip) and not _ends_layer(view, block.branch, _ACTIVATIONS)
        found.append(replace(block, skip_index=1 - block.skip_index) if turned else block)
    return found


def module_of(node_name: str) -> str | None:
    """The module a node belongs to by its name, as `edgeres export` writes them."""
    match = _OURS.match(node_name)
    return match[1] if match else None


def modules_in(view: GraphView) -> dict[str, tuple[str, ...]]:
    """Module -> its nodes, in the graph's order; only modules with a convolution or fully connected layer."""
    named: dict[str, tuple[str, ...]] = {}
    for node in view.nodes:
        if module := module_of(node.name):
            named[module] = (*named.get(module, ()), node.name)
    layers = {called(layer) for layer in view.layers}
    by_name = {name: nodes for name, nodes in named.items() if layers.intersection(nodes)}  # a weight's pair is none
    return by_name or {block.name: block.nodes for block in blocks_in(view) if layers.intersection(block.nodes)}


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
