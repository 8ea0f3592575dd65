"""A float graph run under fake quantization, any of its units left float, from any unit on.

What a quantizer does stands in `simulate`; here nothing is learned, and any unit can be switched between float and INT8
without building the network again, which is what a search over units needs.

A unit is a residual module, or a layer outside of them (the first convolution, the classifier). A module's skip can be
left float alone (`skips_in`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeres.graph.blocks import SKIP, modules_in, skips_in
from edgeres.graph.execute import GraphNetwork, Substitute
from edgeres.graph.view import GraphView
from edgeres.quantize.decision import Decision, quantized_weight
from edgeres.quantize.fidelity import Fidelity
from edgeres.quantize.placement import placement_of
from edgeres.quantize.simulate import bound_of, constant, fake_quantizer, float_network, quantized_reads

Images = NDArray[np.float32]
Labels = NDArray[np.int64]
Batch = tuple[Tensor, Tensor | None]
_BATCH = 64


@dataclass(frozen=True)
class PlacementArgs:
    """What is left float in any case: see `placement_of`."""

    stem: bool = True
    head: bool = True
    keep: frozenset[str] = frozenset()


def units_of(model: onnx.ModelProto) -> dict[str, tuple[str, ...]]:
    """Unit -> its nodes, in the graph's order: the modules and every layer outside of them."""
    view = GraphView(model)
    modules = modules_in(view)
    home = {node: name for name, nodes in modules.items() for node in nodes}
    names = dict.fromkeys(home.get(layer.name, layer.name) for layer in view.layers)
    return {name: modules.get(name, (name,)) for name in names}


def batches_of(images: Images, labels: Labels | None) -> list[Batch]:
    """(images, labels or None) as tensors, a few dozen at a time."""
    return [
        (
            torch.from_numpy(images[start : start + _BATCH]),
            None if labels is None else torch.from_numpy(labels[start : start + _BATCH]),
        )
        for start in range(0, len(images), _BATCH)
    ]


class QuantizedNetwork:
    """`model` under fake quantization of `decision`, less the units named: what `with_pairs` would write."""

    def __init__(self, model: onnx.ModelProto, args: PlacementArgs, decision: Decision) -> None:
        self._model, self._args, self._decision = model, args, decision
        self._float, self._network = GraphNetwork(model), float_network(model, decision)
        self._last: tuple[Tensor, Tensor] | None = None
        placement = placement_of(model, stem=args.stem, head=args.head, keep=args.keep)
        self._nodes = units_of(model)
        self.units = tuple(unit for unit, nodes in self._nodes.items() if set(nodes) & set(placement.layers))
        self._cuts = _cuts(model, self._nodes)
        quantized = {name: node for name, node in skips_in(GraphView(model)).items() if node in placement.additions}
        self.skips = tuple(quantized)
        self._cuts |= {name: self._cuts[name.removesuffix(SKIP)] for name in quantized}
        self._network.substitutes = self._weights(placement.layers)
        self._ways: dict[frozenset[str], tuple[dict[str, Substitute], dict[tuple[str, int], str]]] = {}

    def reference(self, images: Tensor) -> Tensor:
        """Logits of the float network."""
        if self._last is None or self._last[0] is not images:
            with torch.inference_mode():
                self._last = images, self._float(images)
        return self._last[1]

    @torch.inference_mode()
    def logits(self, images: Tensor, keep: frozenset[str]) -> Tensor:
        """Logits with the units `keep` left float."""
        self._set(keep)
        logits: Tensor = self._network(images)
        return logits

    @torch.inference_mode()
    def reached(self, images: Tensor, keep: frozenset[str]) -> dict[str, Tensor]:
        """What every unit and every module with a skip starts from."""
        self._set(keep)
        cuts = {self._cuts[unit] for unit in (*self.units, *self.skips)}
        inside = self._network.values(images, sorted(cuts - {self._network.input}))
        return {**inside, self._network.input: images}

    @torch.inference_mode()
    def logits_from(self, reached: Mapping[str, Tensor], unit: str, keep: frozenset[str]) -> Tensor:
        """Logits with the units `keep` left float, computed from where `unit` (or the module of a skip) starts."""
        self._set(keep)
        cut, output = self._cuts[unit], self._network.output
        return self._network.run({cut: reached[cut]}, [output])[output]

    def fidelity(self, keep: frozenset[str], images: Images, labels: Labels | None) -> Fidelity:
        """On `images`, with the units `keep` left float."""
        result = Fidelity()
        for x, y in batches_of(images, labels):
            result.add(self.reference(x), self.logits(x, keep), y)
        return result

    def macs(self, image: Images) -> dict[str, float]:
        """Multiply-accumulates of every unit for one image (1, C, H, W)."""
        view = GraphView(self._model)
        with torch.inference_mode():
            outputs = self._float.values(torch.from_numpy(image), [str(layer.output[0]) for layer in view.layers])
        cost = {}
        for layer in view.layers:
            places = math.prod(outputs[str(layer.output[0])].shape[2:])
            cost[layer.name] = float(math.prod(view.constants[layer.input[1]].dims) * places)
        return {unit: sum(cost.get(node, 0.0) for node in self._nodes[unit]) for unit in self.units}

    def _set(self, keep: frozenset[str]) -> None:
        if keep not in self._ways:
            self._ways[keep] = self._way(keep)
        substitutes, self._network.readers = self._ways[keep]
        self._network.substitutes |= substitutes

    def _way(self, keep: frozenset[str]) -> tuple[dict[str, Substitute], dict[tuple[str, int], str]]:
        args = self._args
        placement = placement_of(self._model, stem=args.stem, head=args.head, keep=args.keep | keep)
        substitutes: dict[str, Substitute] = {}
        for point in placement.points:
            substitutes[point.tensor] = fake_quantizer(bound_of(self._decision, point.scale_of))
        return substitutes, quantized_reads(placement, self._model.graph.node)

    def _weights(self, layers: Iterable[str]) -> dict[str, Substitute]:
        """What a quantized layer reads in the place of each weight."""
        names = {str(node.input[1]) for node in self._model.graph.node if node.name in layers}
        found: dict[str, Substitute] = {}
        for name in names:
            given = self._decision.weights.get(name)
            weight = given or quantized_weight(self._network.parameter(name).detach().numpy())
            found[name] = constant(torch.from_numpy(weight.as_float))
        return found


def _cuts(model: onnx.ModelProto, units: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The tensor each unit starts from, or the graph's input where the rest needs more than that tensor."""
    view = GraphView(model)
    nodes = {node.name: node for node in view.nodes}
    cuts = {}
    for unit, names in units.items():
        tensor = str(nodes[names[0]].input[0])
        cuts[unit] = tensor if _suffices(view, tensor) else view.inputs[0]
    return cuts


def _suffices(view: GraphView, tensor: str) -> bool:
    """Whether the output can be computed from `tensor` alone."""
    open_names, seen = [view.outputs[0]], {tensor}
    while open_names:
        name = open_names.pop()
        if name in view.inputs and name != tensor:
            return False
        if name not in seen and name in view.producers:
            open_names += view.producers[name].input
        seen.add(name)
    return True
