"""Which nodes of a graph belong to which module: what can be left float as one.

layer2.1.conv1, layer2.1.add, ...   module layer2.1: the names that edgeres export writes
any other graph                     the nodes between the fork and a residual addition, named after the addition
layer2.1.skip                       the skip of a module alone: its layers stay in INT8, its sum is float
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import onnx

from edgeres.core.errors import InputError, did_you_mean
from edgeres.graph.view import GraphView

SKIP = ".skip"
_OURS = re.compile(r"(layer\d+\.\d+)\.")


def modules_of(model: onnx.ModelProto) -> dict[str, tuple[str, ...]]:
    """Module -> names of its nodes, in the graph's order; only modules with a convolution or fully connected layer."""
    return modules_in(GraphView(model))


def modules_in(view: GraphView) -> dict[str, tuple[str, ...]]:
    """See `modules_of`."""
    modules = _by_name(view) or _by_addition(view)
    layers = {layer.name for layer in view.layers}
    return {name: nodes for name, nodes in modules.items() if layers.intersection(nodes)}


def skips_in(view: GraphView) -> dict[str, str]:
    """`MODULE.skip` -> the residual addition that ends the module, in the graph's order."""
    home = {node: name for name, nodes in modules_in(view).items() for node in nodes}
    return {f"{home[node.name]}{SKIP}": node.name for node in view.additions if node.name in home}


def skips_named(model: onnx.ModelProto, names: Iterable[str]) -> tuple[str, ...]:
    """The additions of those skips that stand in `names` themselves, not with their module."""
    known, asked = skips_in(GraphView(model)), set(names)
    return tuple(node for name, node in known.items() if name in asked)


def nodes_named(view: GraphView, names: Iterable[str]) -> set[str]:
    """The nodes that `names` of layers, modules and skips (`skips_in`) stand for.

    Raises:
        InputError: a name that is neither.
    """
    modules = modules_in(view)
    known: dict[str, tuple[str, ...]] = {name: (node,) for name, node in skips_in(view).items()}
    known |= {layer.name: (layer.name,) for layer in view.layers} | modules
    found: set[str] = set()
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known)
            raise InputError(
                f"the graph has no layer or module {name!r}{hint}; modules: {', '.join(modules) or 'none'}"
            )
        found.update(known[name])
    return found


def _by_name(view: GraphView) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for node in view.nodes:
        if match := _OURS.match(node.name):
            found.setdefault(match[1], []).append(node.name)
    return {name: tuple(nodes) for name, nodes in found.items()}


def _by_addition(view: GraphView) -> dict[str, tuple[str, ...]]:
    modules = {}
    for addition in view.additions:
        paths = [_tensors_back(view, tensor) for tensor in addition.input]
        common = set(paths[0]) & set(paths[1])
        if common:
            tensors = {*paths[0], *paths[1], addition.output[0]} - common
            modules[addition.name] = tuple(node.name for node in view.nodes if node.output[0] in tensors)
    return modules


def _tensors_back(view: GraphView, tensor: str) -> list[str]:
    """Tensors from `tensor` back to the graph's input, or to a Constant, along the first inputs."""
    tensors = [tensor]
    while (node := view.producers.get(tensors[-1])) is not None and node.input:
        tensors.append(node.input[0])
    return tensors
