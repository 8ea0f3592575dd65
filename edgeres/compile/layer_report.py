"""What became of every residual module in an engine: its kernels, their precision, their time, where its addition is.

The engine comes as layers in order of execution, with the graph it was built from, or without: then with what the
layers tell of it. A layer belongs to the module whose nodes it computes, a copy and a stray Q or DQ to the module whose
kernel reads what they write.

What layers tell by themselves is a graph, as their tensors lead from one to the next. A layer is a chain of the nodes
that its name holds, its weighted one first: "layer1.0.conv2.weight + Conv_34 + Add_42 + Relu_43" that reads x and s is
Relu(Add(Conv(x), s)). On that graph the one rule for residual modules holds as on any other. A module is called as the
weights beside its addition are (layer1.0), otherwise as its addition.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from edgeres.compile.layers import RANGE, UNKNOWN, WORD, Graph, Layer, Origin, Port, Times, timed
from edgeres.core.config import Record
from edgeres.core.errors import require
from edgeres.graph.blocks import module_of
from edgeres.graph.view import QDQ, WEIGHTED

INT8 = "INT8"
FUSED, STANDALONE, OPAQUE, ABSENT = "fused", "standalone", "inside a region", "not found"
_OWN_CHOICE = "the graph allows it, TensorRT chose otherwise"
_SIZE = 1  # of every made-up weight: which way has fewer layers decides, and the order of the inputs
_OPERATORS = {
    name.lower(): name
    for name in (
        *("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Relu", "Clip", "LeakyRelu", "MaxPool", "AveragePool"),
        *("GlobalAveragePool", "Flatten", "QuantizeLinear", "DequantizeLinear"),
    )
} | {"conv2d": "Conv", "linear": "Gemm", "fc": "Gemm", "quantized": "QuantizeLinear", "dequantized": "DequantizeLinear"}
_LAST = re.compile(r"(?:.*[./])?(?:node_)?([A-Za-z0-9]+?)\d*(?:_\d+)?")
_WEIGHTED_KIND = re.compile(r"conv|gemm|matmul|matrixmultiply|fullyconnected", re.IGNORECASE)


class Kernel(Record):
    """One layer that computes, and the nodes of the graph in it."""

    name: str
    kind: str
    precision: str
    nodes: tuple[str, ...]


class Stray(Record):
    """A Q or DQ that became a kernel of its own. `module`: that reads it, None for none; `place`: between what.

    `reads`, `writes`: precision; `time_ms` by the profile, None without one.
    """

    name: str
    reads: str
    writes: str
    module: str | None
    place: str
    time_ms: float | None = None


class ModuleLayers(Record):
    """One residual module. `addition`: fused, standalone, inside a region (Myelin's, not opened) or not found.

    `precision`: of the kernel that adds, INT8 only if all it reads is INT8; `writes`: of the sum it puts out.
    `reads`: of what comes from outside of the module. `reason`: why it is not fused in INT8, or why it does not end so.
    `reformats`: copies in front of its kernels. `time_ms`, `share`: of the profile, where there is one.
    """

    module: str
    kernels: tuple[Kernel, ...]
    reformats: int
    addition: str
    precision: str
    reason: str | None = None
    reads: str | None = None
    writes: str | None = None
    time_ms: float | None = None
    share: float | None = None

    @property
    def is_int8(self) -> bool:
        """Whether the addition costs nothing: done inside an INT8 kernel that writes INT8."""
        return self.addition == FUSED and self.precision == INT8 and not self.writes_float

    @property
    def writes_float(self) -> bool:
        """Whether the addition reads INT8 only and writes something wider."""
        return self.precision == INT8 and self.writes not in (None, INT8, UNKNOWN)

    @property
    def place(self) -> str:
        """`fused in INT8`, `standalone in FP32`, ..., `not found`."""
        where = self.addition if self.precision == UNKNOWN else f"{self.addition} in {self.precision}"
        return f"{where} with {self.writes} out" if self.writes_float else where


class ProfileSums(Record):
    """`sum_ms`: of the layers, each timed by itself, which is no latency; `outside_ms`: of those of no module.

    `engine_ms`: median GPU compute time of the engine in one piece, on `device`; None where it is not known.
    """

    sum_ms: float
    outside_ms: float
    engine_ms: float | None = None
    device: str | None = None


class LayerReport(Record):
    """`kernels`: number by precision. `quantizers`: Q or DQ nodes that became kernels of their own, the `strays`."""

    schema_version: int = 1
    modules: tuple[ModuleLayers, ...]
    kernels: dict[str, int]
    reformats: int
    quantizers: int
    strays: tuple[Stray, ...] = ()
    profile: ProfileSums | None = None

    @property
    def headline(self) -> str:
        """`16/16 residual adds fused in INT8`, or where the others are done; `1 stray Q/DQ` if there are any."""
        int8 = sum(module.is_int8 for module in self.modules)
        others = Counter(module.place for module in self.modules if not module.is_int8)
        parts = [f"{int8}/{len(self.modules)} residual adds fused in INT8" if self.modules else "no residual adds"]
        stray = [f"{self.quantizers} stray Q/DQ"] if self.quantizers else []
        return ", ".join(parts + [f"{count} {what}" for what, count in others.items()] + stray)


def layer_report(layers: Sequence[Layer], model: Any = None, times: Times | None = None) -> LayerReport:
    """The report about the engine with `layers`, built from the onnx.ModelProto `model` if that is known.

    `times`: how long the layers took.
    """
    engine = _Engine(layers, Graph(model) if model is not None else graph_told_by(layers), times)
    strays = tuple(engine.stray(at) for at, (layer, _) in enumerate(engine.layers) if layer.is_stray)
    return LayerReport(
        modules=tuple(map(engine.module, engine.graph.additions)),
        kernels=dict(Counter(layer.precision for layer, _ in engine.layers if layer.is_kernel).most_common()),
        reformats=sum(layer.is_reformat for layer, _ in engine.layers),
        quantizers=len(strays),
        strays=strays,
        profile=engine.profile,
    )


class _Engine:
    """Layers with the nodes that each computes, the modules that it works for, and the milliseconds it took.

    `owners`: several of a region, none of a layer outside of modules. Without times there is no `profile`.
    """

    def __init__(self, layers: Sequence[Layer], graph: Graph, times: Times | None) -> None:
        self.graph = graph
        self.layers = [self._described(layer) for layer in layers]
        self.owners = self._owners()
        self.profile: ProfileSums | None = None
        self._layer_ms: dict[int, float] = {}
        self._module_ms: defaultdict[str, float] = defaultdict(float)  # "" for layers of none of them, or of several
        if times is not None:
            self._spend(times)

    def stray(self, at: int) -> Stray:
        """A Q or DQ of its own, and what it stands between."""
        layer = self.layers[at][0]
        before, after = self._neighbour(at, back=True), self._neighbour(at, back=False)
        ends = [
            usual if i is None else self.owners[i][-1] if self.owners[i] else self._short(i)
            for i, usual in ((before, "the input"), (after, "the output"))
        ]
        return Stray(
            name=layer.name,
            reads=_precisions(layer.inputs),
            writes=_precisions(layer.outputs),
            module=next(iter(self.owners[at]), None),
            place=f"inside {ends[0]}" if ends[0] == ends[1] else f"between {ends[0]} and {ends[1]}",
            time_ms=self._layer_ms.get(at),
        )

    def module(self, name: str) -> ModuleLayers:
        """What became of the module."""
        addition = self.graph.additions[name]
        own = [pair for pair, of in zip(self.layers, self.owners, strict=True) if name in of]
        kernels = [(layer, origin) for layer, origin in own if layer.is_kernel]
        adding = next(((layer, origin) for layer, origin in kernels if addition in origin.nodes), None)
        where, precision = self._where(adding)
        made = {port.name for layer, _ in own for port in layer.outputs}
        read = [port for layer, _ in own for port in layer.inputs if port.name not in made]
        sum_ms = self.profile.sum_ms if self.profile else 0.0
        module = ModuleLayers(
            module=name,
            kernels=tuple(
                Kernel(name=layer.name, kind=layer.kind, precision=layer.precision, nodes=origin.nodes)
                for layer, origin in kernels
            ),
            reformats=sum(layer.is_reformat for layer, _ in own),
            addition=where,
            precision=precision,
            reads=_precisions(read) if own else None,
            writes=_precisions(adding[0].outputs) if adding else None,
            time_ms=self._module_ms[name] if self.profile else None,
            share=self._module_ms[name] / sum_ms if sum_ms else None,
        )
        return module.model_copy(update={"reason": _reason(self.graph, addition, module)})

    def _described(self, layer: Layer) -> tuple[Layer, Origin]:
        """The layer, stray also if an inspector without origins shows it by the nodes in it."""
        origin = self.graph.origin(layer)
        pairs_only = bool(origin.nodes) and self.graph.operators(origin.nodes) <= QDQ and not layer.is_reformat
        return (layer.model_copy(update={"is_stray": True}) if pairs_only else layer), origin

    def _owners(self) -> list[tuple[str, ...]]:
        own = [self.graph.modules_of(origin) if layer.is_kernel else () for layer, origin in self.layers]
        readers: dict[str, int] = {}
        for at, (layer, _) in enumerate(self.layers):
            for port in layer.inputs:
                readers.setdefault(port.name, at)
        for at, (layer, origin) in reversed(list(enumerate(self.layers))):  # a copy's reader is later, a copy perhaps
            if not layer.is_kernel:
                after = [readers[port.name] for port in layer.outputs if readers.get(port.name, at) > at]
                own[at] = own[min(after)] if after else () if layer.is_stray else self.graph.modules_of(origin)
        return own

    def _spend(self, times: Times) -> None:
        layers = [layer for layer, _ in self.layers]
        index = {id(layer): at for at, layer in enumerate(layers)}
        for layer, time_ms in timed(layers, times.rows):
            at = index.get(id(layer))
            owner = self.owners[at] if at is not None else ()
            self._module_ms[owner[0] if len(owner) == 1 else ""] += time_ms
            if at is not None:
                self._layer_ms[at] = time_ms
        total, outside = sum(time_ms for _, time_ms in times.rows), self._module_ms[""]
        self.profile = ProfileSums(sum_ms=total, outside_ms=outside, engine_ms=times.engine_ms, device=times.device)

    def _neighbour(self, at: int, *, back: bool) -> int | None:
        """The kernel that made what a copy reads, or the first that reads what it writes, other copies passed over."""
        layer = self.layers[at][0]
        names = {port.name for port in (layer.inputs if back else layer.outputs)}
        for i in reversed(range(at)) if back else range(at + 1, len(self.layers)):
            other = self.layers[i][0]
            if names & {port.name for port in (other.outputs if back else other.inputs)}:
                return i if other.is_kernel else self._neighbour(i, back=back)
        return None

    def _short(self, at: int) -> str:
        """A layer by the first node that it computes."""
        layer, origin = self.layers[at]
        return next((node for node in origin.nodes if not self.graph.operators((node,)) & QDQ), layer.name)

    def _where(self, adding: tuple[Layer, Origin] | None) -> tuple[str, str]:
        """(where the addition is done, in which precision)."""
        if adding is None:
            return ABSENT, UNKNOWN
        layer, origin = adding
        if origin.opaque:
            return OPAQUE, layer.precision
        if not WEIGHTED & self.graph.operators(origin.nodes):
            return STANDALONE, layer.precision
        others = sorted({port.precision for port in layer.inputs} - {layer.precision, UNKNOWN})
        return FUSED, " and ".join([layer.precision, *others])


def _precisions(ports: Iterable[Port]) -> str:
    """`INT8`, or of several `INT8 and FP32`."""
    return " and ".join(dict.fromkeys(port.precision for port in ports)) or UNKNOWN


def _reason(graph: Graph, addition: str, module: ModuleLayers) -> str | None:
    if module.addition == ABSENT:
        return f"no layer names the node {addition}; was the engine built from this graph?"
    if module.addition == OPAQUE:
        return "it is inside a region that TensorRT does not describe node by node"
    if module.is_int8 or graph.told:
        return None
    if module.addition == FUSED and module.writes_float:
        return graph.float_reader(addition) or _OWN_CHOICE
    return graph.obstacle(addition) or _OWN_CHOICE


def graph_told_by(layers: Sequence[Layer]) -> Graph:
    """The graph of `layers`; its nodes have the names that stand in theirs."""
    helper = require("onnx", "onnx").helper
    nodes, weights, names = [], set[str](), dict[str, str]()
    for index, layer in enumerate(layers):
        for node in _nodes(layer, index):
            nodes.append(helper.make_node(node[0], node[2], node[3], name=node[1]))
            weights.update(node[2][1:] if node[0] in WEIGHTED else ())
            told = {module for word in WORD.findall(layer.text) if (module := module_of(word))}
            if node[0] == "Add" and len(told) == 1:  # the words of the layer agree on it
                names[node[1]] = told.pop()
    stored = [helper.make_tensor(name, helper.TensorProto.FLOAT, [_SIZE], [0.0]) for name in sorted(weights)]
    return Graph(helper.make_model(helper.make_graph(nodes, "engine", [], [], stored)), names, told=True)


def _nodes(layer: Layer, index: int) -> Iterator[tuple[str, str, list[str], list[str]]]:
    """(operator, name, inputs, outputs) of the chain that `layer` is, and of what gives it further outputs."""
    inputs, outputs = ([port.name for port in ports] for ports in (layer.inputs, layer.outputs))
    if not outputs:
        return
    chain, tensor, skips = _chain(layer, index), inputs[0] if inputs else "", inputs[1:]
    for step, (operator, name) in enumerate(chain):
        read, made = [tensor], outputs[0] if step == len(chain) - 1 else f"{index}.{step}"
        if operator in WEIGHTED:
            read.append(f"{index}.weight")
        elif operator == "Add" and skips:
            read.append(skips.pop(0))
        yield operator, name, read, [made]
        tensor = made
    for more in outputs[1:]:
        yield "Identity", f"{index}.{more}", [outputs[0]], [more]


def _chain(layer: Layer, index: int) -> list[tuple[str, str]]:
    """(operator, name) of the nodes named in `layer`, the one with weights first; of one that names none, itself."""
    words = dict.fromkeys(WORD.findall(layer.text)) if not layer.is_reformat else {}
    found = [(operator, word) for word in words if (operator := _operator(word))]
    heavy = [pair for pair in found if pair[0] in WEIGHTED][:1]
    if not heavy and (layer.weights is not None or _WEIGHTED_KIND.search(layer.kind)) and layer.is_kernel:
        heavy = [("Conv", next((word for word in words if not _operator(word)), f"{index}.layer"))]
    rest = [pair for pair in found if pair[0] not in WEIGHTED]
    pairs = [] if heavy else [pair for pair in rest if pair[0].endswith("Linear")]
    return [*heavy, *pairs, *(pair for pair in rest if not pair[0].endswith("Linear"))] or [
        ("Identity", f"{index}.{layer.name}")
    ]


def _operator(word: str) -> str | None:
    """Conv of "Conv_34", "/layer1/layer1.0/conv1/Conv" and "layer1.0.conv1"; None of what names no one operator."""
    match = _LAST.fullmatch(word) if RANGE not in word else None
    return _OPERATORS.get(match[1].lower()) if match else None
