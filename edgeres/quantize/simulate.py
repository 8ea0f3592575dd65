"""A float graph under fake quantization: what `with_pairs` would write, with gradients, or less the units left float.

    activation   x^ = s clip(round(x / s), -128, 127),   s = amax / 127,   log amax is a parameter
    weight       w^ = s clip(round(w / s), -127, 127) per row,   s = max |w| of the row / 127

Rounding passes gradients through; clipping does not, but it moves amax (learned step size). A `QuantizedNetwork` learns
nothing: any unit can be left float, from any unit on, without building it again, as a search over units needs it. Units
are those of `units_in`; a module's skip can be left float alone (`skips_in`).

Source: Esser et al. 2020, arXiv 1902.08153, equations 1 to 3; Bengio et al. 2013, arXiv 1308.3432.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeres.core.distances import kept
from edgeres.core.errors import InputError
from edgeres.core.progress import track
from edgeres.graph.blocks import SKIP, skips_in, units_in
from edgeres.graph.execute import GraphNetwork, Substitute, key_of
from edgeres.graph.view import GraphView
from edgeres.quantize.calibrators import LEVELS
from edgeres.quantize.decision import Decision, quantized_weight
from edgeres.quantize.fidelity import Fidelity
from edgeres.quantize.placement import COMMUTING, Options, Placement, is_average, placement_of

Images = NDArray[np.float32]
KnownBatch = tuple[Tensor, Tensor]  # images (N, C, H, W), what is `kept` of the float network's logits (N, K) of them
_BATCH = 64
_LARGE_SIDE, _LARGE_BATCH = 64, 4  # pixels; images at a time
_SMALLEST = 1e-8  # of a bound: its logarithm is learned


class Simulation(nn.Module):
    """`model` under fake quantization, started from `decision`; `forward` gives logits float32 (N, K).

    `weights` names the initializers that are rounded to nearest, `biases` those of the quantized layers. Raises
    InputError if `decision` has no bound for a tensor that the placement quantizes.
    """

    def __init__(self, model: onnx.ModelProto, placement: Placement, decision: Decision) -> None:
        super().__init__()
        self.network = GraphNetwork(model)
        self.sizes = self.network.sizes
        self._placement, self._start = placement, decision
        replace_tensors(self.network, decision.tensors)
        bounds = {name: bound_of(decision, name) for name in placement.observed}
        self.log_amax = nn.ParameterDict({key_of(name): torch.tensor(np.log(bound)) for name, bound in bounds.items()})
        nodes = [node for node in self.network.nodes if node.name in placement.layers]
        self.weights = tuple(dict.fromkeys(str(node.input[1]) for node in nodes))
        self.biases = tuple(dict.fromkeys(str(node.input[2]) for node in nodes if len(node.input) > 2))
        for point in placement.points:
            self.network.substitutes[point.tensor] = self._activation(point.scale_of)
        self.network.readers |= quantized_reads(placement, nodes)
        self.network.substitutes |= dict.fromkeys(self.weights, self._rounded)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, float32 (N, K)."""
        logits: Tensor = self.network(images)
        return logits

    def decision(self) -> Decision:
        """The one it was started from with what has been learned, ready for `with_pairs`."""
        names = (*self.weights, *self.biases)
        learned = {name: self.network.parameter(name).detach().numpy().copy() for name in names}
        bounds = {name: float(self.log_amax[key_of(name)].detach().exp()) for name in self._placement.observed}
        amax, tensors = {**self._start.amax, **bounds}, {**self._start.tensors, **learned}
        return replace(self._start, amax=amax, tensors=tensors)

    def _activation(self, name: str) -> Substitute:
        def quantize(x: Tensor) -> Tensor:
            quantized: Tensor = _Quantized.apply(x, self.log_amax[key_of(name)])
            return quantized

        return quantize

    def _rounded(self, weight: Tensor) -> Tensor:
        rows = weight.detach().flatten(1).abs().amax(1).clamp_min(_SMALLEST) / LEVELS
        scale = rows.reshape(-1, *[1] * (weight.ndim - 1))
        return round_through(weight / scale) * scale


class _Quantized(torch.autograd.Function):
    """Activations, a third faster to learn through than by torch's own steps.

    d x^ / d log amax is x^ - x, and x^ where x is clipped.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, log_amax: Tensor) -> Tensor:
        scale = float(log_amax.exp()) / LEVELS
        ctx.range = -(LEVELS + 1) * scale, LEVELS * scale
        rounded = x.clamp(*ctx.range).div_(scale).round_().mul_(scale)
        ctx.save_for_backward(x, rounded)
        return rounded

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, rounded = ctx.saved_tensors
        through = torch.ops.aten.hardtanh_backward(gradient, x, *ctx.range)  # 0 where x is clipped
        return through, (gradient * rounded).sum() - (through * x).sum()


def round_through(x: Tensor) -> Tensor:
    """Rounded to the nearest integer; the gradient is that of x."""
    return x + (torch.round(x) - x).detach()


def fake_quantizer(amax: float) -> Substitute:
    """Rounds and clips by the bound `amax`, without gradients."""
    scale = float(np.float32(max(amax, _SMALLEST) / LEVELS))
    return lambda x: (x / scale).round_().clamp_(-LEVELS - 1, LEVELS).mul_(scale)


def replace_tensors(network: GraphNetwork, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Puts `tensors` in the place of the network's initializers."""
    with torch.no_grad():
        for name, array in tensors.items():
            network.parameter(name).copy_(torch.from_numpy(array))


def float_network(model: onnx.ModelProto, decision: Decision) -> GraphNetwork:
    """`model` in float with the decision's tensors: what the layers of a quantized network are held against.

    After `channels` these are scaled, so the model itself is no longer a measure of them.
    """
    network = GraphNetwork(model).requires_grad_(False)
    replace_tensors(network, decision.tensors)
    return network


def batches_of(images: NDArray[np.float32], batch: int) -> Iterator[Tensor]:
    """`images` in order, `batch` at a time."""
    return (torch.from_numpy(images[start : start + batch]) for start in range(0, len(images), batch))


def batch_for(images: NDArray[np.float32], usual: int = 32) -> int:
    """How many images are run at a time: of large ones fewer than `usual`."""
    return usual if images.shape[-1] <= _LARGE_SIDE else _LARGE_BATCH


def constant(value: Tensor) -> Substitute:
    """Lets readers see `value`, whatever was computed."""
    return lambda _: value


def bound_of(decision: Decision, name: str) -> float:
    """The clipping bound of tensor `name`; raises InputError if `decision` has none."""
    if name not in decision.amax:
        raise InputError(f"no clipping bound for tensor {name!r}; calibrate again")
    return max(decision.amax[name], _SMALLEST)


def quantized_reads(placement: Placement, nodes: Iterable[onnx.NodeProto]) -> dict[tuple[str, int], str]:
    """(node, input index) -> the tensor or weight that is read quantized there, of the nodes among `nodes`."""
    reads = {reader: point.tensor for point in placement.points for reader in point.readers}
    return reads | {(node.name, 1): str(node.input[1]) for node in nodes if node.name in placement.layers}


class QuantizedNetwork:
    """`model` under fake quantization of `decision`, less the units named: what `with_pairs` would write.

    `units` and `skips`: what `options` let be quantized. Raises InputError if `decision` has no bound for a tensor.
    """

    def __init__(self, model: onnx.ModelProto, options: Options, decision: Decision) -> None:
        self._model, self._options, self._decision = model, options, decision
        self._float, self._network = GraphNetwork(model), float_network(model, decision)
        placement = placement_of(model, options)
        view = GraphView(model)
        self._nodes = units_in(view)
        self.units = tuple(unit for unit, nodes in self._nodes.items() if set(nodes) & set(placement.layers))
        self.skips = tuple(name for name, node in skips_in(view).items() if node in placement.additions)
        first = {node.name: str(node.input[0]) for node in view.nodes if node.input}
        self._fronts = {
            name: live_after(self._network, _before_pools(view, first[self._nodes[name.removesuffix(SKIP)][0]]))
            for name in (*self.units, *self.skips)
        }
        self._network.substitutes = self._weights(placement.layers)
        self._ways: dict[frozenset[str], tuple[dict[str, Substitute], dict[tuple[str, int], str]]] = {}

    @torch.inference_mode()
    def batches(self, images: Images) -> list[KnownBatch]:
        """`images`, a few dozen at a time, with what the float network says of them."""
        return [(x, kept(self._float(x), self._float.sizes)) for x in batches_of(images, _BATCH)]

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
        result = Fidelity(sizes=self._float.sizes)
        for images, reference in batches:
            result.add(reference, self.logits(images, keep))
        return result

    def alone(self, names: tuple[str, ...], batches: list[KnownBatch]) -> dict[str, Fidelity]:
        """Of each of the units or skips `names`: the logits with all others of them left float.

        What lies before it is computed once.
        """
        every, found = frozenset(names), {name: Fidelity(sizes=self._float.sizes) for name in names}
        for images, reference in track(batches, "sensitivity", len(batches)):
            reached = self.reached(images, every)
            for name, fidelity in found.items():
                fidelity.add(reference, self.logits_from(reached, name, every - {name}))
        return found

    def macs(self, image: Images) -> dict[str, float]:
        """Multiply-accumulates of every unit for one image (1, C, H, W)."""
        view = GraphView(self._model)
        values = self.sizes(image, [str(layer.output[0]) for layer in view.layers])
        cost = {
            layer.name: float(math.prod(view.constants[layer.input[1]].dims) * math.prod(values[layer.output[0]][2:]))
            for layer in view.layers
        }
        return {unit: sum(cost.get(node, 0.0) for node in self._nodes[unit]) for unit in self.units}

    @torch.inference_mode()
    def sizes(self, image: Images, tensors: list[str]) -> dict[str, tuple[int, ...]]:
        """Shapes of `tensors` for `image`."""
        values = self._float.values(torch.from_numpy(image), tensors)
        return {name: tuple(value.shape) for name, value in values.items()}

    def _set(self, keep: frozenset[str]) -> None:
        if keep not in self._ways:
            placement = placement_of(self._model, replace(self._options, keep=(*self._options.keep, *keep)))
            bounds = {point.tensor: bound_of(self._decision, point.scale_of) for point in placement.points}
            quantizers = {tensor: fake_quantizer(bound) for tensor, bound in bounds.items()}
            self._ways[keep] = quantizers, quantized_reads(placement, self._model.graph.node)
        substitutes, self._network.readers = self._ways[keep]
        self._network.substitutes |= substitutes

    def _weights(self, layers: Iterable[str]) -> dict[str, Substitute]:
        """What a quantized layer reads in the place of each weight."""
        names, found = {str(node.input[1]) for node in self._model.graph.node if node.name in layers}, {}
        for name in names:
            weight = quantized_weight(self._network.parameter(name).detach().numpy())
            found[name] = constant(torch.from_numpy(weight.as_float))
        return found


def _before_pools(view: GraphView, tensor: str) -> str:
    """From where what reads `tensor` decides how it is computed: in front of the average pools it comes from."""
    while (node := view.producers.get(tensor)) is not None and (node.op_type in COMMUTING or is_average(view, node)):
        tensor = str(node.input[0])
    return tensor


def live_after(network: GraphNetwork, tensor: str) -> list[str]:
    """`tensor`, and what is computed before it and read after it."""
    made = {network.input: -1} | {str(node.output[0]): step for step, node in enumerate(network.nodes)}
    now = made[tensor]
    read = {name for node in network.nodes[now + 1 :] for name in node.input}
    return [tensor, *(name for name, step in made.items() if step < now and name in read)]
