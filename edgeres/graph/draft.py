"""A graph being rewritten: nodes in a list, constants in a dict."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from copy import deepcopy
from itertools import chain, count
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, inliner, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgeres.core.errors import InputError
from edgeres.graph.view import GraphView, called, producers_of, readers_of

_BODIES = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)  # of branches and loops


class Draft:
    """A copy of `model` under construction. Constant nodes become initializers, every node gets a name."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = deepcopy(model)
        graph = self.model.graph
        view = GraphView(self.model)
        for node in view.nodes:
            if any(entry.type in _BODIES for entry in node.attribute):
                raise InputError(
                    f"{node.op_type} node {node.name!r} holds a graph of its own; export it without branches"
                )
        self.inputs: list[onnx.ValueInfoProto] = list(graph.input)
        self.outputs = {value.name for value in graph.output}
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {tensor.name: tensor for tensor in graph.initializer}
        for node in view.nodes:
            stored = view.constants.get(node.output[0]) if node.output else None
            if stored is not None and node.output[0] not in self.outputs:
                self.constants[node.output[0]] = copy = deepcopy(stored)
                copy.name = node.output[0]
            else:
                self.nodes.append(node)
        self._name_nodes()

    def fold_constants(self) -> None:
        """Everything that is computed from constants alone becomes a constant."""
        kept, read = [], {tensor for node in self.nodes for tensor in node.input}
        for node in self.nodes:
            only = not any(output in read for output in node.output[1:])
            if only and self.outputs.isdisjoint(node.output) and (values := computed(node, self.value)) is not None:
                self.store(node.output[0], values)
            else:
                kept.append(node)
        self.nodes = kept

    @property
    def producers(self) -> dict[str, onnx.NodeProto]:
        """Tensor -> node, now."""
        return producers_of(self.nodes)

    @property
    def readers(self) -> dict[str, list[tuple[onnx.NodeProto, int]]]:
        """Tensor -> (node, input index) of its readers, now."""
        return readers_of(self.nodes)

    def view(self) -> GraphView:
        """The graph as it is now; what is changed later does not show."""
        ends = [onnx.ValueInfoProto(name=name) for name in sorted(self.outputs)]
        graph = onnx.GraphProto(node=self.nodes, initializer=self.constants.values(), output=ends)
        return GraphView(onnx.ModelProto(graph=graph, opset_import=self.model.opset_import))

    def value(self, name: str) -> NDArray[Any] | None:
        """A constant's values, None if `name` is computed."""
        stored = self.constants.get(name)
        return None if stored is None else numpy_helper.to_array(stored)

    def store(self, name: str, value: NDArray[Any]) -> str:
        """Adds or replaces a constant."""
        self.constants[name] = numpy_helper.from_array(np.asarray(value), name)
        return name

    def insert_after(self, tensor: str, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> None:
        """A node right behind the one that makes `tensor`; first in the graph if none does."""
        node = helper.make_node(op, list(inputs), [output], name=output, **attributes)
        position = next((i + 1 for i, other in enumerate(self.nodes) if tensor in other.output), 0)
        self.nodes.insert(position, node)

    def remove(self, nodes: Sequence[onnx.NodeProto]) -> None:
        """Takes nodes out; their readers must have been served."""
        gone = {id(node) for node in nodes}
        self.nodes = [node for node in self.nodes if id(node) not in gone]

    def free(self, name: str) -> str:
        """`name`, or a variant that nothing in the graph is called."""
        taken = self.constants.keys() | {tensor for node in self.nodes for tensor in (*node.input, *node.output)}
        taken = taken | {value.name for value in self.inputs}
        return free_of(taken, name)

    def replace_tensor(self, old: str, new: str) -> str:
        """Lets every reader of `old`, which nothing makes any more, read `new`; what `new` is called from now on.

        Where `old` is an output of the graph, `new` takes its name.
        """
        for node, index in self.readers[old]:
            node.input[index] = new
        return self._take_output_name(old, new) if old in self.outputs else new

    def swap_names(self, names: Mapping[str, str]) -> None:
        """The tensors `names` and those whose names they give change names with each other."""
        swapped = {**names, **{new: old for old, new in names.items()}}
        for node in self.nodes:
            for tensors in (node.input, node.output):
                tensors[:] = [swapped.get(name, name) for name in tensors]

    def finish(self) -> onnx.ModelProto:
        """The model, without what nothing reads."""
        before = None
        while len(self.nodes) != before:
            read, before = {tensor for node in self.nodes for tensor in node.input} | self.outputs, len(self.nodes)
            self.nodes = [node for node in self.nodes if any(output in read for output in node.output)]
        return self.written()

    def written(self) -> onnx.ModelProto:
        """The model as it stands."""
        graph = self.model.graph
        used = {tensor for node in self.nodes for tensor in node.input} | self.outputs
        inputs = {value.name for value in self.inputs}
        kept = [value for value in self.inputs if value.name in used or value.name not in self.constants]
        stored = [tensor for name, tensor in self.constants.items() if name in used or name in inputs]
        _refill(graph.node, self.nodes)
        _refill(graph.initializer, stored)
        _refill(graph.input, kept)
        del graph.value_info[:]
        del graph.quantization_annotation[:]
        return self.model

    def _take_output_name(self, old: str, new: str) -> str:
        producers = self.producers
        if new in self.outputs or new not in producers:
            self.insert_after(new, "Identity", [new], old)
            return new
        for node, index in self.readers[new]:
            node.input[index] = old
        maker = producers[new]
        maker.output[list(maker.output).index(new)] = old
        return old

    def _name_nodes(self) -> None:
        given, seen = {node.name for node in self.nodes}, set[str]()
        for node in self.nodes:
            if not node.name or node.name in seen:
                node.name = free_of(given | seen, called(node))
            seen.add(node.name)


def computed(node: onnx.NodeProto, value: Callable[[str], NDArray[Any] | None]) -> NDArray[Any] | None:
    """The first output of a node of ONNX itself that reads constants alone; None of any other."""
    inputs: dict[str, Any] = {name: value(name) for name in node.input if name}
    is_known = node.domain in ("", "ai.onnx") and not node.op_type.startswith("Random")
    if not is_known or any(array is None for array in inputs.values()):
        return None
    results: list[Any] = list(ReferenceEvaluator(node).run(None, inputs))
    return np.asarray(results[0])


def inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` with its functions written out."""
    return inliner.inline_local_functions(model) if model.functions else model


def free_of(taken: Collection[str], name: str, mark: str = ".", first: int = 2) -> str:
    """`name`, or the first of `name.2`, `name.3`, ... that is not taken."""
    return next(one for one in chain([name], (f"{name}{mark}{number}" for number in count(first))) if one not in taken)


def _refill(field: Any, items: Sequence[Any]) -> None:
    copies = [type(item).FromString(item.SerializeToString()) for item in items]
    del field[:]
    field.extend(copies)
