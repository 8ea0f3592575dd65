"""Layers of an engine as TensorRT describes them: `trtexec --exportLayerInfo` or the engine inspector, as JSON.

    {"Layers": [{"Name", "LayerType", "Inputs": [...], "Outputs": [...], "Weights": {"Type"}, "Metadata"}, ...]}

A tensor is {"Name", "Dimensions", "Format/Datatype": "Row major Int8 format"} up to TensorRT 10 and has "Format" and
"DataType" apart from 11 on. With other than detailed profiling verbosity a layer is its name and nothing else.

TensorRT names layers after nodes of the ONNX graph: "conv1 + relu", "PWN(PWN(add), relu)", "[ONNX Layer: conv1]", and a
region it does not open "ForeignNode[first...last]". A node without a name goes by its output, "node_of_TENSOR". A pair
that is fused into a layer stands in its name; a Q or DQ that became a kernel of its own, a stray one, is a "Reformat"
whose "Origin" is "QDQ". Any other copy into another format has the Origin "REFORMAT", or none.

How long they took stands beside NAME.graph.json or NAME.layers.json, in trtexec's profile and the engine's own figures:

    NAME.profile.json           [{"count": N}, {"name", "averageMs", "medianMs", ...}, ...]
    NAME.profile.metadata.json  {"performance_summary": {"GPU Compute Time": [min, max, mean, median, p99]},
                                 "inference_options": {...}, "device_information": {...}}

Profiling adds to every layer, so the times add up to more than the engine takes: 0.731 ms against 0.546 ms for a
ResNet-18 on an A100. Their sum is no latency.

Source: NVIDIA/TensorRT, sampleEngines.cpp; TensorRT 11 migration guide, IEngineInspector; NVIDIA/TensorRT issue 4020.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from edgeres.core.config import Record
from edgeres.core.errors import InputError
from edgeres.graph.blocks import Block, blocks_in, module_of
from edgeres.graph.view import DQ, QDQ, WEIGHTED, GraphView, Q, called
from edgeres.runtime.manifest import plan_header

UNKNOWN = "unknown"
_TYPES = {
    "INT8": r"int8|s8",
    "FP8": r"fp8|e4m3",
    "FP16": r"fp16|half|f16",
    "BF16": r"bf16|bfloat16",
    "FP32": r"fp32|float|f32",
    "INT32": r"int32|s32",
    "INT64": r"int64|s64",
    "BOOL": r"bool",
}
_PRECISION = {
    name: re.compile(rf"(?<![a-z0-9])k?(?:{words})(?![a-z0-9])", re.IGNORECASE) for name, words in _TYPES.items()
}
_REFORMAT, _QDQ_ORIGIN = "Reformat", "QDQ"
_NO_KERNEL = frozenset({"NoOp", "Constant", "Signal", "Wait"})
WORD = re.compile(r"[^\s+(),\[\]{}\x1e]+")
RANGE = "..."
_ACTIVATIONS = frozenset({"Relu", "Clip"})
_BESIDE_PLAN = ".layers.json"
_LAYERS = ("graph.json", "layers.json")
_MEDIAN = 3  # of the five figures of a performance summary


class Port(Record):
    """An input or output of a layer; `precision`: INT8, FP16, FP32, ... or unknown."""

    name: str
    precision: str


class Layer(Record):
    """One layer: `text` is its name and what TensorRT says it was made from."""

    name: str
    kind: str
    text: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    weights: str | None = None
    is_stray: bool = False

    @property
    def is_reformat(self) -> bool:
        """Whether it only copies a tensor into another format or type, and no Q or DQ asked for it."""
        return not self.is_stray and (self.kind == _REFORMAT or self.name.startswith("Reformatting CopyNode"))

    @property
    def is_copy(self) -> bool:
        """Whether it does nothing but write a tensor anew: a reformat or a stray Q or DQ."""
        return self.is_stray or self.is_reformat

    @property
    def is_kernel(self) -> bool:
        """Whether it computes."""
        return not self.is_copy and self.kind not in _NO_KERNEL

    @property
    def precision(self) -> str:
        """What it computes in: the type of its weights, otherwise of what it reads first."""
        if self.weights is not None:
            return self.weights
        return self.inputs[0].precision if self.inputs else UNKNOWN


def layers_from(path: Path) -> tuple[Layer, ...]:
    """The layers in the JSON file `path`, in order of execution; of a plan those in the file beside it.

    Raises InputError if there is none, or if it is something else.
    """
    if path.suffix == ".plan":
        path = _of_plan(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise InputError(f"cannot read {path}: {err.strerror}") from err
    except (ValueError, RecursionError) as err:
        raise InputError(f"{path} is not readable JSON: {err}") from err
    return layers_in(content, str(path))


def layers_path(plan: Path) -> Path:
    """Where `edgeres compile` writes what the inspector says of `plan`."""
    return plan.with_name(plan.name + _BESIDE_PLAN)


def plan_of(described: Path) -> Path:
    """The plan that lies beside its layers, or `described` if that is no NAME.plan.layers.json."""
    return described.with_name(described.name.removesuffix(_BESIDE_PLAN))


def _of_plan(plan: Path) -> Path:
    path = layers_path(plan)
    if plan.is_file() and not path.is_file():
        makes = f"trtexec --loadEngine={plan.name} --exportLayerInfo={path.name} --profilingVerbosity=detailed"
        if plan_header(plan).runtime == "tensorrt-rtx":
            makes = "edgeres compile MODEL.onnx"
        raise InputError(
            f"{plan} has no layer report beside it ({path.name}): it is made where the engine can be loaded, on its own"
            f" GPU; there: {makes}"
        )
    return path


def layers_in(content: Any, where: str) -> tuple[Layer, ...]:
    """The layers of parsed JSON, called `where` in messages; raises InputError if there are none in it."""
    layers = content.get("Layers") if isinstance(content, dict) else None
    if not isinstance(layers, list) or not layers:
        raise InputError(f'{where} holds no layers of an engine ("Layers" is missing or empty)')
    if any(isinstance(layer, str) for layer in layers):
        raise InputError(f"{where} has names of layers only; build with --profilingVerbosity=detailed")
    if not all(isinstance(layer, dict) and isinstance(layer.get("Name"), str) for layer in layers):
        raise InputError(f"{where}: a layer is no object with a Name")
    return tuple(_layer(layer) for layer in layers)


def precision_in(text: object) -> str:
    """INT8 in "Thirty-two wide channel vectorized row major Int8 format", FP16 in "Half", ..., or unknown."""
    if not isinstance(text, str):
        return UNKNOWN
    return next((name for name, pattern in _PRECISION.items() if pattern.search(text)), UNKNOWN)


def _layer(fields: dict[str, Any]) -> Layer:
    metadata, weights = fields.get("Metadata"), fields.get("Weights")
    kind = precision_in(weights.get("Type")) if isinstance(weights, dict) else UNKNOWN
    return Layer(
        name=fields["Name"],
        kind=str(fields.get("LayerType", UNKNOWN)),
        text="\n".join([fields["Name"], metadata if isinstance(metadata, str) else ""]),
        inputs=_ports(fields.get("Inputs")),
        outputs=_ports(fields.get("Outputs")),
        weights=None if kind == UNKNOWN else kind,
        is_stray=fields.get("Origin") == _QDQ_ORIGIN,
    )


def _ports(tensors: object) -> tuple[Port, ...]:
    if not isinstance(tensors, list):
        return ()
    return tuple(
        Port(
            name=str(tensor.get("Name", "")),
            precision=precision_in(tensor.get("DataType", tensor.get("Format/Datatype"))),
        )
        for tensor in tensors
        if isinstance(tensor, dict)
    )


class Origin(NamedTuple):
    """Names of nodes in the graph's order; `opaque`: the layer names only the first and the last of a region."""

    nodes: tuple[str, ...]
    opaque: bool


class Graph:
    """An onnx.ModelProto by names of nodes.

    `told`: it was made from the layers themselves, and knows no more than they do; `names`: addition -> its module.
    """

    def __init__(self, model: Any, names: Mapping[str, str] | None = None, *, told: bool = False) -> None:
        self._view = GraphView(model)
        self.nodes = {_name_in_engine(node): node for node in self._view.nodes}
        self.told, self._names = told, names or {}
        self._order = {name: index for index, name in enumerate(self.nodes)}

    @cached_property
    def _blocks(self) -> dict[str, Block]:
        found = {}
        for block in blocks_in(self._view):
            if not block.is_inside:
                found[self._names.get(_name_in_engine(block.addition), block.name)] = block
        return found

    @cached_property
    def additions(self) -> dict[str, str]:
        """Residual module -> the addition that ends it."""
        return {module: _name_in_engine(block.addition) for module, block in self._blocks.items()}

    @cached_property
    def _homes(self) -> dict[str, str]:
        """Node -> the first module between whose fork and addition it stands."""
        engine_names = {called(node): name for name, node in self.nodes.items()}
        found: dict[str, str] = {}
        for module, block in self._blocks.items():
            for node in block.nodes:
                found.setdefault(engine_names[node], module)
        return found

    def modules_of(self, origin: Origin) -> tuple[str, ...]:
        """The modules whose work a kernel does; the pairs it takes in may bear the name of the module before."""
        computing = [node for node in origin.nodes if not self.operators((node,)) & QDQ] or origin.nodes
        named = {module_of(node) for node in computing} & self.additions.keys()
        homes = named or {self._homes[node] for node in computing if node in self._homes}
        return tuple(name for name, addition in self.additions.items() if name in homes or addition in origin.nodes)

    def origin(self, layer: Layer) -> Origin:
        """The nodes of `layer` that are in the graph."""
        found, opaque = set[str](), False
        for word in WORD.findall(layer.text):
            first, dots, last = word.partition(RANGE)
            if dots and first in self.nodes and last in self.nodes:
                opaque = True
                found.update(list(self.nodes)[self._order[first] : self._order[last] + 1])
            elif word in self.nodes:
                found.add(word)
        return Origin(tuple(sorted(found, key=self._order.__getitem__)), opaque)

    def operators(self, names: tuple[str, ...]) -> frozenset[str]:
        """Operators of the nodes `names`."""
        return frozenset(self.nodes[name].op_type for name in names)

    def obstacle(self, addition: str) -> str | None:
        """What in the graph keeps TensorRT from adding inside an INT8 convolution; None if nothing does."""
        makers = [self._maker(tensor) for tensor in self.nodes[addition].input]
        branches = [node for node in makers if node is not None and node.op_type in WEIGHTED]
        quantized = [node for node in makers if node is not None and node.op_type == DQ]
        if not branches:
            return "no convolution's output is added directly" + (": each is quantized first" if quantized else "")
        read = [[self._maker(tensor) for tensor in node.input[:2]] for node in branches]
        if not any(all(maker is not None and maker.op_type == DQ for maker in both) for both in read):
            return "its convolution is float in the graph"
        if not quantized:
            return "its skip has no Q/DQ pair"
        readers = self._view.readers[branches[-1].output[0]]
        return "its convolution's output is read elsewhere too" if len(readers) > 1 else None

    def float_reader(self, addition: str) -> str | None:
        """Who has the sum written in float: what reads it without a pair, or the graph's end."""
        tensor = self.nodes[addition].output[0]
        readers = [reader for reader, _ in self._view.readers[tensor]]
        if len(readers) == 1 and readers[0].op_type in _ACTIVATIONS:
            tensor = readers[0].output[0]
            readers = [reader for reader, _ in self._view.readers[tensor]]
        if tensor in self._view.outputs:
            return f"{tensor} leaves the graph"
        found = next((reader for reader in readers if reader.op_type != Q), None)
        return f"{_name_in_engine(found)} reads it without a pair" if found is not None else None

    def _maker(self, tensor: str) -> Any:
        """The node that computes `tensor`, casts passed over."""
        node = self._view.producers.get(tensor)
        while node is not None and node.op_type == "Cast":
            node = self._view.maker_of(node)
        return node


def _name_in_engine(node: Any) -> str:
    return node.name or f"node_of_{next(iter(node.output), '')}"


class Times(NamedTuple):
    """(layer, ms) of every row of a profile; `engine_ms`: median GPU compute time of the engine, `device` its GPU."""

    rows: tuple[tuple[str, float], ...]
    engine_ms: float | None = None
    device: str | None = None


def times_in(profile: str) -> list[tuple[str, float]]:
    """(layer, its median in ms, the mean where an old trtexec gives none) in the file of `trtexec --exportProfile`.

    Raises InputError with one line if it is damaged or another file.
    """
    try:
        head, *rows = json.loads(profile)
        int(head["count"])
        return [(str(row["name"]), float(row["medianMs"] if "medianMs" in row else row["averageMs"])) for row in rows]
    except (KeyError, TypeError, ValueError, RecursionError) as err:
        reason = " ".join(str(err).split())
        raise InputError(f"damaged layer profile of trtexec: {type(err).__name__}: {reason}") from err


def timed(layers: Sequence[Layer], rows: Sequence[tuple[str, float]]) -> Iterator[tuple[Layer, float]]:
    """Every row of a profile with what is known of its layer, which is its name at least."""
    known: dict[str, list[Layer]] = {}
    for layer in layers:
        known.setdefault(layer.name, []).append(layer)
    for name, time_ms in rows:
        same = known.get(name)
        yield same.pop(0) if same else Layer(name=name, kind=UNKNOWN, text=name, inputs=(), outputs=()), time_ms


def times_beside(described: Path) -> Times | None:
    """What stands beside the layers in `described`, or beside those of that plan; None without a profile there.

    Raises InputError if it is damaged.
    """
    if described.suffix == ".plan":
        described = layers_path(described)
    end = next((end for end in _LAYERS if described.name.endswith(end)), None)
    if end is None:
        return None
    path = described.with_name(described.name.removesuffix(end) + "profile.json")
    if not path.is_file():
        return None
    try:
        rows = times_in(path.read_text(encoding="utf-8"))
    except InputError as err:
        raise InputError(f"{path}: {err}") from err
    except (OSError, UnicodeDecodeError) as err:
        raise InputError(f"cannot read {path}: {err}") from err
    return Times(tuple(rows), *_whole(path.with_name(path.name.removesuffix("json") + "metadata.json")))


def _whole(path: Path) -> tuple[float | None, str | None]:
    """(median GPU compute time of the engine in ms, its GPU) in a metadata file; None for what is not there."""
    if not path.is_file():
        return None, None
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        median = content["performance_summary"]["GPU Compute Time"][_MEDIAN]
        device = content.get("device_information", {}).get("Selected Device")
        return float(median), None if device is None else str(device)
    except (OSError, KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError) as err:
        raise InputError(f"{path} holds no performance summary: {type(err).__name__}: {err}") from err
