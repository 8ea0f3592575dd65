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
from pydantic import Field
from torch import Tensor, nn

from edgeres.core.config import Config
from edgeres.core.progress import track
from edgeres.graph.blocks import units_in
from edgeres.graph.execute import Substitute
from edgeres.graph.view import GraphView, called
from edgeres.quantize.decision import Decision, IntegerWeight, row_scale
from edgeres.quantize.placement import Placement, result_of
from edgeres.quantize.simulate import Simulation, constant, float_network
from edgeres.quantize.walk import Images, Walk

_STRETCH, _OFFSET = 1.2, -0.1  # of the sigmoid, so that 0 and 1 are reached
_WARM_UP = 0.2  # of the steps: no push towards 0 or 1
_FIRST_BETA, _LAST_BETA = 20.0, 2.0
_BATCH = 32
_MEASURED = 128  # images for the error of rounding to nearest


class RoundingConfig(Config):
    """How long and how hard each module's rounding is learned."""

    bits: int = Field(8, ge=2, le=8, description="of the weights; stored as int8 in any case")
    steps: int = Field(100, ge=1, description="of each module")
    lr: float = Field(1e-2, gt=0, description="Adam's, of the rounding variables")
    push: float = Field(1.0, gt=0, description="lambda: weight of the term that drives them to 0 or 1")
    seed: int = Field(0, ge=0, description="of the order of the images")


def rounded(
    model: onnx.ModelProto,
    placement: Placement,
    decision: Decision,
    *,
    images: Images,
    config: RoundingConfig | None = None,
) -> Decision:
    """`decision` with integers for every quantized weight, learned on calibration images float32 (N, C, H, W).

    Modules are held against those of `float_network`, so corrected biases come after this, not before.
    """
    config = config or RoundingConfig()
    simulation = Simulation(model, placement, replace(decision, weights={}), weight_bits=config.bits)
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
        _learn(simulation, unit, soft, (front, target), config)
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


class SoftWeight(nn.Module):
    """One weight on its way to integers; called, it gives w^ with gradients."""

    def __init__(self, simulation: Simulation, name: str) -> None:
        super().__init__()
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

    def forward(self) -> Tensor:
        """What the layer sees."""
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
    config: RoundingConfig,
) -> None:
    front, target = data
    optimizer = torch.optim.Adam([one.v for one in soft.values()], lr=config.lr)
    generator = torch.Generator().manual_seed(config.seed)
    nearest = _error_of_nearest(simulation, unit, (front, target))
    for name, one in soft.items():
        simulation.substitute(name, _called(one))
    for step in range(config.steps):
        rows = torch.randint(0, len(target), (_BATCH,), generator=generator)
        feeds = {name: value[rows] for name, value in front.items()}
        output = simulation.network.run(feeds, [unit.output])[unit.output]
        loss = (output - target[rows]).square().mean() / nearest + config.push * _undecided(soft, step / config.steps)
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


def _called(soft: SoftWeight) -> Substitute:
    return lambda _: soft()
