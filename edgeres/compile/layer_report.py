"""What became of every residual module in an engine: its kernels, their precision, where its addition is done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from edgeres.compile.layers import UNKNOWN, Graph, Layer, Origin
from edgeres.core.config import Record
from edgeres.graph.blocks import module_of
from edgeres.graph.view import QDQ, WEIGHTED

INT8 = "INT8"
FUSED, STANDALONE, OPAQUE, ABSENT = "fused", "standalone", "inside a region", "not found"
_OWN_CHOICE = "the graph allows it, TensorRT chose otherwise"


class Kernel(Record):
    """One layer that computes, and the nodes of the graph in it."""

    name: str
    kind: str
    precision: str
    nodes: tuple[str, ...]


class ModuleLayers(Record):
    """One residual module. `addition`: fused, standalone, inside a region (Myelin's, not opened) or not found.

    `precision`: of the kernel that adds, INT8 only if all it reads is INT8. `reason`: why it is not fused in INT8.
    `reformats`: copies in front of its kernels.
    """

    module: str
    kernels: tuple[Kernel, ...]
    reformats: int
    addition: str
    precision: str
    reason: str | None = None

    @property
    def is_int8(self) -> bool:
        """Whether the addition costs nothing: done inside an INT8 kernel."""
        return self.addition == FUSED and self.precision == INT8

    @property
    def place(self) -> str:
        """`fused in INT8`, `standalone in FP32`, ..., `not found`."""
        return self.addition if self.precision == UNKNOWN else f"{self.addition} in {self.precision}"


class LayerReport(Record):
    """`kernels`: number by precision. `quantizers`: Q or DQ nodes that became kernels of their own."""

    schema_version: int = 1
    modules: tuple[ModuleLayers, ...]
    kernels: dict[str, int]
    reformats: int
    quantizers: int

    @property
    def headline(self) -> str:
        """`16/16 residual adds fused in INT8`, or where the others are done."""
        if not self.modules:
            return "no residual adds"
        int8 = sum(module.is_int8 for module in self.modules)
        others = Counter(module.place for module in self.modules if not module.is_int8)
        parts = [f"{int8}/{len(self.modules)} residual adds fused in INT8"]
        return ", ".join(parts + [f"{count} {what}" for what, count in others.items()])


def layer_report(layers: Sequence[Layer], model: Any) -> LayerReport:
    """The report about the engine with `layers`, built from the onnx.ModelProto `model`."""
    graph = Graph(model)
    origins = [graph.origin(layer) for layer in layers]
    kernels = [pair for pair in zip(layers, origins, strict=True) if pair[0].is_kernel]
    copies = Counter(_destination(layer, kernels, graph) for layer in layers if layer.is_reformat)
    return LayerReport(
        modules=tuple(_module(graph, name, kernels, copies[name]) for name in graph.additions),
        kernels=dict(Counter(layer.precision for layer, _ in kernels).most_common()),
        reformats=sum(layer.is_reformat for layer in layers),
        quantizers=sum(bool(origin.nodes) and graph.operators(origin.nodes) <= QDQ for _, origin in kernels),
    )


def _module(graph: Graph, name: str, kernels: Sequence[tuple[Layer, Origin]], reformats: int) -> ModuleLayers:
    addition = graph.additions[name]
    own = [(layer, origin) for layer, origin in kernels if _belongs(graph, origin, name, addition)]
    adding = next(((layer, origin) for layer, origin in own if addition in origin.nodes), None)
    where, precision = _where(graph, adding)
    return ModuleLayers(
        module=name,
        kernels=tuple(
            Kernel(name=layer.name, kind=layer.kind, precision=layer.precision, nodes=origin.nodes)
            for layer, origin in own
        ),
        reformats=reformats,
        addition=where,
        precision=precision,
        reason=_reason(graph, addition, where, precision),
    )


def _belongs(graph: Graph, origin: Origin, name: str, addition: str) -> bool:
    """By what it computes; the pairs it takes in may bear the name of the module before."""
    if addition in origin.nodes:
        return True
    computing = [node for node in origin.nodes if not graph.operators((node,)) & QDQ]
    return any(module_of(node) == name for node in computing or origin.nodes)


def _where(graph: Graph, adding: tuple[Layer, Origin] | None) -> tuple[str, str]:
    """(where the addition is done, in which precision)."""
    if adding is None:
        return ABSENT, UNKNOWN
    layer, origin = adding
    if origin.opaque:
        return OPAQUE, layer.precision
    if not WEIGHTED & graph.operators(origin.nodes):
        return STANDALONE, layer.precision
    read = {port.precision for port in layer.inputs}
    others = sorted(read - {layer.precision, UNKNOWN})
    return FUSED, " and ".join([layer.precision, *others])


def _reason(graph: Graph, addition: str, where: str, precision: str) -> str | None:
    if where == ABSENT:
        return f"no layer names the node {addition}; was the engine built from this graph?"
    if where == OPAQUE:
        return "it is inside a region that TensorRT does not describe node by node"
    if where == FUSED and precision == INT8:
        return None
    return graph.obstacle(addition) or _OWN_CHOICE


def _destination(reformat: Layer, kernels: Sequence[tuple[Layer, Origin]], graph: Graph) -> str | None:
    """The module whose kernel reads what `reformat` writes; None if it is no module's."""
    written = {port.name for port in reformat.outputs}
    for layer, origin in kernels:
        if written & {port.name for port in layer.inputs}:
            return _module_of_kernel(graph, origin)
    return _module_of_kernel(graph, graph.origin(reformat))


def _module_of_kernel(graph: Graph, origin: Origin) -> str | None:
    for name, addition in graph.additions.items():
        if _belongs(graph, origin, name, addition):
            return name
    return None
