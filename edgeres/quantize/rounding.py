"""Learned rounding: each weight up or down, so that a module's output stays what it is in float.

    w^ = s clip(floor(w / s) + h, -q, q),   h = clip(1.2 sigmoid(v) - 0.1, 0, 1)
    minimise  |y - y_float|^2 / e  +  lambda mean(1 - |2 h - 1|^beta),   e = the same error of rounding to nearest

A residual module at a time, in order of execution; y is computed from what the quantized network so far gives, with
quantized activations inside. beta falls from 20 to 2, which drives every h to 0 or 1.
Source: Nagel et al. 2020, arXiv 2004.10568, equations 21 to 25; modules as units, inputs from the quantized network: Li
et al. 2021, arXiv 2102.05426.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from edgeres.core.progress import track
from edgeres.graph.blocks import units_in
from edgeres.graph.view import GraphView, called
from edgeres.quantize.decision import Decision, IntegerWeight, row_scale
from edgeres.quantize.placement import Placement, result_of
from edgeres.quantize.simulate import Images, Simulation, Walk, constant, float_network

_STRETCH, _OFFSET = 1.2, -0.1  # of the sigmoid, so that 0 and 1 are reached
_WARM_UP = 0.2  # of the steps: no push towards 0 or 1
_FIRST_BETA, _LAST_BETA = 20.0, 2.0
_BATCH = 32
_RATE, _PUSH, _SEED = 1e-2, 1.0, 0  # Adam's; lambda; of the order of the images
_MEASURED = 128  # images for the error of rounding to nearest


def rounded(
    model: onnx.ModelProto, placement: Placement, decision: Decision, *, images: Images, bits: int = 8, steps: int = 100
) -> Decision:
    """`decision` with integers for every quantized weight, learned on calibration images float32 (N, C, H, W).

    Weights have `bits`, stored as int8 in any case; each module learns so many `steps`. Modules are held against those
    of `float_network`, so corrected biases come after this, not before.
    """
    simulation = Simulation(model, placement, replace(decision, weights={}), weight_bits=bits)
    simulation.requires_grad_(False)
    exact, walk = Walk(float_network(model, decision), images), Walk(simulation.network, images)
    units = list(stretches_of(model, placement))
    weights: dict[str, IntegerWeight] = {}
    for unit in track(units, "learned rounding", len(units)):
        exact.advance(unit.source)
        walk.advance(unit.source)
        soft = {name: SoftWeight(simulation, name) for name in unit.weights}
        front = walk.front
        target = exact.advance(unit.output)
        _learn(simulation, unit, soft, (front, target), steps)
        for name, one in soft.items():
            weights[name] = one.integers()
            simulation.substitute(name, constant(torch.from_numpy(weights[name].as_float)))
    return replace(decision, weights=weights)


@dataclass(frozen=True)
class Stretch:
    """A unit of `units_in`: from `source` to `output`; `weights` are the initializers."""

    source: str
    output: str
    weights: tuple[str, ...]


def stretches_of(model: onnx.ModelProto, placement: Placement) -> Iterator[Stretch]:
    """In order of execution; together they hold every layer of the placement once."""
    view = GraphView(model)
    nodes = {called(node): node for node in view.nodes}
    for unit in units_in(view).values():
        weights = dict.fromkeys(str(nodes[name].input[1]) for name in unit if name in placement.layers)
        if weights:
            first, last = nodes[unit[0]], nodes[unit[-1]]
            yield Stretch(str(first.input[0]), result_of(view, last), tuple(weights))


class SoftWeight:
    """One weight on its way to integers; `seen` gives w^ with gradients."""

    def __init__(self, simulation: Simulation, name: str) -> None:
        weight = simulation.network.parameter(name).detach()
        self.levels = simulation.levels
        self.scale = row_scale(weight.numpy(), self.levels)
        self._rows = torch.from_numpy(self.scale).reshape(-1, *[1] * (weight.ndim - 1))
        steps = weight / self._rows
        self._floor = steps.floor()
        share = ((steps - self._floor).clamp(0.01, 0.99) - _OFFSET) / _STRETCH
        self.v = nn.Parameter(torch.log(share / (1 - share)))

    def up(self) -> Tensor:
        """H, between 0 (down) and 1 (up)."""
        return (torch.sigmoid(self.v) * _STRETCH + _OFFSET).clamp(0, 1)

    def seen(self, _: Tensor | None = None) -> Tensor:
        """What the layer sees in place of the weight."""
        return (self._floor + self.up()).clamp(-self.levels, self.levels) * self._rows

    def integers(self) -> IntegerWeight:
        """Decided: up where h is at least 1/2."""
        steps = self._floor + (self.up().detach() >= 0.5)
        return IntegerWeight(steps.clamp(-self.levels, self.levels).numpy().astype(np.int8), self.scale)


def _learn(
    simulation: Simulation,
    unit: Stretch,
    soft: dict[str, SoftWeight],
    data: tuple[dict[str, Tensor], Tensor],
    steps: int,
) -> None:
    front, target = data
    optimizer = torch.optim.Adam([one.v for one in soft.values()], lr=_RATE)
    generator = torch.Generator().manual_seed(_SEED)
    nearest = _error_of_nearest(simulation, unit, (front, target))
    for name, one in soft.items():
        simulation.substitute(name, one.seen)
    for step in range(steps):
        rows = torch.randint(0, len(target), (_BATCH,), generator=generator)
        feeds = {name: value[rows] for name, value in front.items()}
        output = simulation.network.run(feeds, [unit.output])[unit.output]
        loss = (output - target[rows]).square().mean() / nearest + _PUSH * _undecided(soft, step / steps)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


@torch.no_grad()
def _error_of_nearest(simulation: Simulation, unit: Stretch, data: tuple[dict[str, Tensor], Tensor]) -> float:
    """Mean squared error of the unit's output on the first images, above 0."""
    front, target = data
    feeds = {name: value[:_MEASURED] for name, value in front.items()}
    output = simulation.network.run(feeds, [unit.output])[unit.output]
    return max(float((output - target[:_MEASURED]).square().mean()), torch.finfo(torch.float32).tiny)


def _undecided(soft: dict[str, SoftWeight], progress: float) -> Tensor:
    """Mean over all weights of 1 - |2 h - 1|^beta; 0 in the warm-up."""
    if progress < _WARM_UP:
        return torch.zeros(())
    beta = _FIRST_BETA + (_LAST_BETA - _FIRST_BETA) * (progress - _WARM_UP) / (1 - _WARM_UP)
    terms = [(1 - (2 * one.up() - 1).abs().pow(beta)).flatten() for one in soft.values()]
    return torch.cat(terms).mean()
