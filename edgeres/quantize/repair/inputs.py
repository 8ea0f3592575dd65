"""Whether a repaired graph rounds what its layers and additions read as finely as the original's own ranges ask for.

For each of these inputs, x being what the float graph computes there, all pairs but its own taken out (`Roundings`):

    excess = 10 log10( sum (repaired(x) - x)^2 / max( sum (original(x) - x)^2, sum (symmetric(x) - x)^2 ) )

symmetric(x) is one int8 pair over the original's range, steps of max(|low|, |high|) / 127: what becomes of a uint8 pair
or one with a zero point. Sums are over what the original does not clip; where its range starts at 0 the pair was a
ReLU, and x is max(x, 0). Every x is taken from images and, once more, spread over the original's range, which images
may not fill. Nothing accumulates, so the size of one pair shows however small its part in the logits.

Right repairs of ONNX Runtime's files stay below 0.03 dB: 48 of `tools/lint_figures.py` and 8 with convolutions alone
quantized. One scale of four repaired ResNet-18, -20 and -50 (28 scales in turn) times 1.5, 2, 3, 4 made 3.3, 5.6, 9.0,
11.8 dB and more, times 0.5 made 35; at the logits none of these factors need show. Where the original rounds an input
twice, before and after its ReLU, that much is right too: in the files with convolutions alone quantized 1.5 may pass,
and 2 made 1.4 dB and more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from edgeres.core.metrics import decibels
from edgeres.graph.session import GraphSession
from edgeres.graph.view import QDQ, GraphView, Q
from edgeres.quantize.calibrators import LEVELS
from edgeres.quantize.placement import Read
from edgeres.quantize.repair.check import ImageInput
from edgeres.quantize.repair.stripping import SHRINKING, drafted, floated, parameters_of, span_of

COARSER_DB = 1.0  # right repairs stay below 0.03, a scale twice too large made 1.4 and more
_BATCH = 4  # images at a time where the graph takes any number: every input of the graph is kept
_IMAGES = 8  # each has thousands of values of every tensor
_SEED = 0
_TINY = 1e-12  # of the signal: no rounding of 8 bits is as small


_AVERAGES = frozenset({"AveragePool", "GlobalAveragePool", "ReduceMean"})
_PASSING = (SHRINKING - _AVERAGES) | QDQ | {"Clip"}
Range = tuple[float, float]


@dataclass(frozen=True)
class Coarseness:
    """`excess_db` of every input that could be compared; `unknown`: those for which the original has no range."""

    excess_db: dict[Read, float]
    unknown: tuple[Read, ...]

    @property
    def worst(self) -> tuple[Read, float] | None:
        """The input with the largest excess, None if nothing could be compared."""
        return max(self.excess_db.items(), key=lambda item: item[1], default=None)


def coarseness(original: onnx.ModelProto, repaired: onnx.ModelProto, given: ImageInput) -> Coarseness:
    """Compares the inputs that `repaired` rounds, on a few of the images of `given`."""
    draft, taken = floated(original)
    floats, named = draft.finish(), drafted(original)
    named.swap_names(taken.renamed)
    old, new, exact = (Roundings(model) for model in (named.written(), repaired, floats))
    rounded = {read: name for read, name in new.reads.items() if name in new.rounded and read in exact.reads}
    sums = {read: _Sums(old.ranges.get(new.source(name))) for read, name in rounded.items()}
    for values in _values(floats, {*old.origins, *new.origins, *exact.reads.values()}, given):
        for fed in (values, _within(old.ranges, values)):
            x, before, after = ({**fed, **one.run(fed)} for one in (exact, old, new))
            for read, name in rounded.items():
                own = old.reads.get(read)
                if name in after:
                    sums[read].add(x[exact.reads[read]], after[name], before.get(own) if own in old.rounded else None)
    known = {read: one.excess_db for read, one in sums.items() if one.is_known}
    return Coarseness(known, tuple(read for read in rounded if read not in known))


def _within(ranges: Mapping[str, Range], values: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Computed tensors of the shapes of `values`, evenly spread over the original's ranges."""
    rng = np.random.default_rng(_SEED)
    return {
        name: rng.uniform(*ranges[name], value.shape).astype(value.dtype) if name in ranges else value
        for name, value in values.items()
    }


def _values(floats: onnx.ModelProto, tensors: set[str], given: ImageInput) -> Iterator[dict[str, NDArray[Any]]]:
    """Those of `tensors` that the float graph has, batch by batch."""
    computed = sorted(tensors & {output for node in floats.graph.node for output in node.output if output})
    session = GraphSession(floats, "the float graph", computed)
    for feeds, _ in given.batches(_BATCH, _IMAGES):
        yield {**session.run(feeds), **feeds}


class _Sums:
    """Squared errors of one input: the repaired file's, the original's and those of a symmetric pair on its range."""

    def __init__(self, limits: Range | None) -> None:
        self._limits = limits
        self._signal = self._repaired = self._original = self._symmetric = 0.0
        self.is_known = limits is not None

    def add(self, exact: NDArray[Any], repaired: NDArray[Any], original: NDArray[Any] | None) -> None:
        """Counts a batch; `original` is None where the original does not round this input."""
        x = exact.astype(np.float64)
        self.is_known |= original is not None
        if self._limits is None:
            kept = np.ones(x.shape, bool)
        else:
            low, high = self._limits
            if original is not None and low >= 0:
                x = np.maximum(x, 0)
            kept = (x >= low) & (x <= high)
            self._symmetric += _error(_symmetric(x, max(-low, high)), x, kept)
        self._signal += float(np.square(x).sum())
        self._repaired += _error(repaired, x, kept)
        self._original += 0.0 if original is None else _error(original, x, kept)

    @property
    def excess_db(self) -> float:
        """How much larger the repaired file's error is than it need be."""
        least = _TINY * self._signal + float(np.finfo(np.float64).tiny)
        if not math.isfinite(self._repaired):
            return math.inf
        return decibels(max(self._repaired, least), max(self._original, self._symmetric, least))


def _symmetric(x: NDArray[np.float64], amax: float) -> NDArray[np.float64]:
    scale = amax / LEVELS
    rounded: NDArray[np.float64] = np.clip(np.rint(x / scale), -LEVELS - 1, LEVELS) * scale
    return rounded


def _error(values: NDArray[Any], x: NDArray[np.float64], kept: NDArray[np.bool_]) -> float:
    return float(np.square(values - x, where=kept, out=np.zeros(x.shape)).sum())


class Roundings:
    """The pairs of `model` and what moves tensors between them and the nodes that compute; every node has a name.

        conv, add, ... --x--> Q --> DQ --> ReLU, pooling, slicing --> x^ --> conv, add, ...

    Every node that computes is taken out. What is left has their outputs x as inputs and what the next ones read, x^,
    as outputs, so that x^ - x is the rounding of that input and of nothing before it, alike for any two files of one
    network.

    `reads`: (node, input index) of a computing node -> tensor. `sources`: that tensor -> the computed tensor it comes
    from. `rounded`: the tensors that pass a pair. `ranges`: computed tensor -> the range that covers its pairs'.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model, self._view = model, GraphView(model)
        self._constants = self._view.constants
        self._passing: list[onnx.NodeProto] = []
        self.reads: dict[Read, str] = {}
        self.sources: dict[str, str] = {}
        self.rounded: set[str] = set()
        self.ranges: dict[str, Range] = {}
        self._session: GraphSession | None = None
        fixed = set(self._constants)
        for node in model.graph.node:
            if node.op_type in _PASSING and node.input[0] in fixed:
                fixed.update(node.output)
            elif node.op_type in _PASSING:
                self._pass(node)
            else:
                self.reads |= {(node.name, i): name for i, name in enumerate(node.input) if name and name not in fixed}

    @property
    def origins(self) -> set[str]:
        """The computed tensors that its rounded reads come from."""
        return {self.source(tensor) for tensor in self.reads.values() if tensor in self.rounded}

    def source(self, tensor: str) -> str:
        """The computed tensor that `tensor` comes from: itself, if nothing stands between."""
        return self.sources.get(tensor, tensor)

    def run(self, values: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Every read tensor made by a passing node, from `values`: the computed tensors, as many as are known.

        Further calls have other values of the same tensors.
        """
        known = {"", *self._constants, *values}
        nodes = [node for node in self._passing if known.issuperset([self.sources[node.output[0]], *node.input[1:]])]
        made = {node.output[0] for node in nodes}
        wanted = sorted(made.intersection(self.reads.values()))
        feeds = {name: values[name] for name in {name for node in nodes for name in node.input} & set(values) - made}
        if self._session is None and wanted:
            self._session = GraphSession(self._graph(nodes, feeds), "the pairs alone", wanted)
        return self._session.run(feeds) if self._session else {}

    def _pass(self, node: onnx.NodeProto) -> None:
        output, source = node.output[0], self.source(node.input[0])
        self._passing.append(node)
        self.sources[output] = source
        if node.op_type in QDQ or node.input[0] in self.rounded:
            self.rounded.add(output)
        if node.op_type == Q and (parameters := parameters_of(self._view, node)) is not None:
            found = span_of(*parameters)
            low, high = self.ranges.get(source, found)
            self.ranges[source] = min(low, found[0]), max(high, found[1])

    def _graph(self, nodes: list[onnx.NodeProto], values: Mapping[str, NDArray[Any]]) -> onnx.ModelProto:
        used = {name for node in nodes for name in node.input}
        inputs = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), [None] * value.ndim)
            for name, value in values.items()
        ]
        stored = [tensor for name, tensor in self._constants.items() if name in used]
        graph = helper.make_graph(nodes, "roundings", inputs, [], stored)
        return helper.make_model(graph, opset_imports=self._model.opset_import, ir_version=self._model.ir_version)
