"""A float graph run under fake quantization, any of its units left float, from any unit on.

What a quantizer does stands in `simulate`; here nothing is learned, and any unit can be switched between float and INT8
without building the network again, which is what a search over units needs. Units are those of `units_in`; a module's
skip can be left float alone (`skips_in`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeres.core.progress import track
from edgeres.graph.blocks import SKIP, skips_in, units_in
from edgeres.graph.execute import GraphNetwork, Substitute
from edgeres.graph.view import GraphView
from edgeres.quantize.decision import Decision, quantized_weight
from edgeres.quantize.fidelity import Fidelity
from edgeres.quantize.placement import placement_of
from edgeres.quantize.profiles import Options
from edgeres.quantize.simulate import (
    batches_of,
    bound_of,
    constant,
    fake_quantizer,
    float_network,
    quantized_reads,
)
from edgeres.quantize.walk import Images, live_after

Labels = NDArray[np.int64]
_BATCH = 64


@dataclass(frozen=True)
class KnownBatch:
    """Images (N, C, H, W), the float network's logits (N, K) of them, labels (N,) or None."""

    images: Tensor
    reference: Tensor
    labels: Tensor | None


class QuantizedNetwork:
    """`model` under fake quantization of `decision`, less the units named: what `with_pairs` would write.

    `units` and `skips`: what `options` let be quantized. Raises InputError if `decision` has no bound for a tensor.
    """

    def __init__(self, model: onnx.ModelProto, options: Options, decision: Decision) -> None:
        self._model, self._options, self._decision = model, options, decision
        self._float, self._network = GraphNetwork(model), float_network(model, decision)
        placement = placement_of(model, stem=options.stem, head=options.head, keep=options.keep)
        view = GraphView(model)
        self._nodes = units_in(view)
        self.units = tuple(unit for unit, nodes in self._nodes.items() if set(nodes) & set(placement.layers))
        self.skips = tuple(name for name, node in skips_in(view).items() if node in placement.additions)
        first = {node.name: str(node.input[0]) for node in view.nodes if node.input}
        self._fronts = {
            name: live_after(self._network, first[self._nodes[name.removesuffix(SKIP)][0]])
            for name in (*self.units, *self.skips)
        }
        self._network.substitutes = self._weights(placement.layers)
        self._ways: dict[frozenset[str], tuple[dict[str, Substitute], dict[tuple[str, int], str]]] = {}

    def batches(self, images: Images, labels: Labels | None = None) -> list[KnownBatch]:
        """`images`, a few dozen at a time, with what the float network says of them."""
        given = repeat(None) if labels is None else torch.split(torch.from_numpy(labels), _BATCH)
        with torch.inference_mode():
            return [KnownBatch(x, self._float(x), y) for x, y in zip(batches_of(images, _BATCH), given, strict=False)]

    @torch.inference_mode()
    def logits(self, images: Tensor, keep: frozenset[str]) -> Tensor:
        """Logits with the units `keep` left float."""
        self._set(keep)
        logits: Tensor = self._network(images)
        return logits

    @torch.inference_mode()
    def reached(self, images: Tensor, keep: frozenset[str]) -> dict[str, Tensor]:
        """What the network can be continued from at every unit and every module with a skip."""
        self._set(keep)
        wanted = {name for front in self._fronts.values() for name in front} - {self._network.input}
        return {**self._network.values(images, sorted(wanted)), self._network.input: images}

    @torch.inference_mode()
    def logits_from(self, reached: Mapping[str, Tensor], unit: str, keep: frozenset[str]) -> Tensor:
        """Logits with the units `keep` left float, computed from where `unit` (or the module of a skip) starts."""
        self._set(keep)
        output = self._network.output
        return self._network.run({name: reached[name] for name in self._fronts[unit]}, [output])[output]

    def fidelity(self, keep: frozenset[str], batches: Iterable[KnownBatch]) -> Fidelity:
        """With the units `keep` left float."""
        result = Fidelity()
        for batch in batches:
            result.add(batch.reference, self.logits(batch.images, keep), batch.labels)
        return result

    def alone(self, names: tuple[str, ...], batches: list[KnownBatch]) -> dict[str, Fidelity]:
        """Of each of the units or skips `names`: the logits with all others of them left float.

        What lies before it is computed once.
        """
        every, found = frozenset(names), {name: Fidelity() for name in names}
        for batch in track(batches, "sensitivity", len(batches)):
            reached = self.reached(batch.images, every)
            for name, fidelity in found.items():
                fidelity.add(batch.reference, self.logits_from(reached, name, every - {name}), None)
        return found

    def macs(self, image: Images) -> dict[str, float]:
        """Multiply-accumulates of every unit for one image (1, C, H, W)."""
        view = GraphView(self._model)
        values = self.sizes(image, [str(layer.output[0]) for layer in view.layers])
        cost = {}
        for layer in view.layers:
            places = math.prod(values[str(layer.output[0])][2:])
            cost[layer.name] = float(math.prod(view.constants[layer.input[1]].dims) * places)
        return {unit: sum(cost.get(node, 0.0) for node in self._nodes[unit]) for unit in self.units}

    @torch.inference_mode()
    def sizes(self, image: Images, tensors: list[str]) -> dict[str, tuple[int, ...]]:
        """Shapes of `tensors` for `image`."""
        values = self._float.values(torch.from_numpy(image), tensors)
        return {name: tuple(value.shape) for name, value in values.items()}

    def _set(self, keep: frozenset[str]) -> None:
        if keep not in self._ways:
            self._ways[keep] = self._way(keep)
        substitutes, self._network.readers = self._ways[keep]
        self._network.substitutes |= substitutes

    def _way(self, keep: frozenset[str]) -> tuple[dict[str, Substitute], dict[tuple[str, int], str]]:
        options = self._options
        placement = placement_of(self._model, stem=options.stem, head=options.head, keep=(*options.keep, *keep))
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
