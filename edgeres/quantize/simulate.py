"""A float graph under fake quantization that can be trained: what `with_pairs` would write, with gradients.

    activation   x^ = s clip(round(x / s), -128, 127),   s = amax / 127,   log amax is a parameter
    weight       w^ = s clip(round(w / s), -q, q) per row,   s = max |w| of the row / q,   q = 2^(bits - 1) - 1

Rounding passes gradients through; clipping does not, but it moves amax (learned step size).
Source: Esser et al. 2020, arXiv 1902.08153, equations 1 to 3; Bengio et al. 2013, arXiv 1308.3432.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeres.core.errors import InputError
from edgeres.graph.execute import GraphNetwork, Substitute, key_of
from edgeres.quantize.calibrators import LEVELS
from edgeres.quantize.decision import Decision, quantized_weight
from edgeres.quantize.placement import Placement

_SMALLEST = 1e-8  # of a bound: its logarithm is learned


class Simulation(nn.Module):
    """`model` under fake quantization, started from `decision`; `forward` gives logits float32 (N, K).

    `weights` names the initializers that are rounded, `biases` those of the quantized layers. What `substitute` is told
    of a weight takes the place of rounding to nearest.

    Raises:
        InputError: `decision` has no bound for a tensor that the placement quantizes.
    """

    def __init__(
        self, model: onnx.ModelProto, placement: Placement, decision: Decision, *, weight_bits: int = 8
    ) -> None:
        super().__init__()
        self.network = GraphNetwork(model)
        self.levels = levels_of(weight_bits)
        self._placement, self._given = placement, dict(decision.weights)
        replace_tensors(self.network, decision.tensors)
        bounds = {name: bound_of(decision, name) for name in placement.observed}
        self.log_amax = nn.ParameterDict({key_of(name): torch.tensor(np.log(bound)) for name, bound in bounds.items()})
        nodes = [node for node in self.network.nodes if node.name in placement.layers]
        self.weights = tuple(dict.fromkeys(str(node.input[1]) for node in nodes))
        self.biases = tuple(dict.fromkeys(str(node.input[2]) for node in nodes if len(node.input) > 2))
        for point in placement.points:
            self.network.substitutes[point.tensor] = self._activation(point.scale_of)
        self.network.readers |= quantized_reads(placement, nodes)
        for name in self.weights:
            given = self._given.get(name)
            self.substitute(name, self._rounded if given is None else constant(torch.from_numpy(given.as_float)))

    def forward(self, images: Tensor) -> Tensor:
        """Logits, float32 (N, K)."""
        logits: Tensor = self.network(images)
        return logits

    def substitute(self, weight: str, function: Substitute) -> None:
        """Lets layers see `function` of the float weight."""
        self.network.substitutes[weight] = function

    def bounds(self) -> dict[str, float]:
        """Clipping bound of every observed tensor as it stands."""
        return {name: float(self.log_amax[key_of(name)].detach().exp()) for name in self._placement.observed}

    def decision(self) -> Decision:
        """What has been learned, ready for `with_pairs`; weights of less than 8 bits as integers."""
        names = (*self.weights, *self.biases)
        tensors = {name: self.network.parameter(name).detach().numpy().copy() for name in names}
        weights = dict(self._given)
        if self.levels != LEVELS:
            weights |= {name: quantized_weight(tensors[name], self.levels) for name in self.weights}
        return Decision(self.bounds(), weights, tensors)

    def _activation(self, name: str) -> Substitute:
        def quantize(x: Tensor) -> Tensor:
            scale = self.log_amax[key_of(name)].exp() / LEVELS
            quantized: Tensor = round_through((x / scale).clamp(-LEVELS - 1, LEVELS)) * scale
            return quantized

        return quantize

    def _rounded(self, weight: Tensor) -> Tensor:
        rows = weight.detach().flatten(1).abs().amax(1).clamp_min(_SMALLEST) / self.levels
        scale = rows.reshape(-1, *[1] * (weight.ndim - 1))
        return round_through(weight / scale) * scale


def levels_of(bits: int) -> int:
    """Positive steps of a symmetric weight of `bits` bits; raises InputError outside 2 to 8."""
    if not 2 <= bits <= 8:
        raise InputError(f"weights of {bits} bits cannot be stored as int8; choose 2 to 8")
    return int(2 ** (bits - 1) - 1)


def round_through(x: Tensor) -> Tensor:
    """Rounded to the nearest integer; the gradient is that of x."""
    return x + (torch.round(x) - x).detach()


def fake_quantizer(amax: float) -> Substitute:
    """Rounds and clips by the bound `amax`, without gradients."""
    scale = float(np.float32(max(amax, _SMALLEST) / LEVELS))
    return lambda x: torch.round(x / scale).clamp(-LEVELS - 1, LEVELS) * scale


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
