"""Channels scaled so that one bound per tensor fits all of them: learned from the logits, exact in float.

`equalize` scales channels by their ranges; what they matter to the logits it does not know. Here the factor of each
class of channels (`channel_classes`) and the bound of each tensor are learned together:

    minimise  |z - z_float|^2 / |z_float|^2,   rounding of tensor p, channel c:  s = amax_p r_c / 127

by Adam under fake quantization on unlabelled calibration images (a parameter for each channel of a stage and each
tensor: few, so that some hundred images suffice). Afterwards weights and biases carry the factors and nothing stays in
the graph. The last quarter of the images decides whether the result is kept.
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from edgeres.core.progress import track
from edgeres.graph.execute import GraphNetwork, Substitute
from edgeres.quantize.auto import fidelity_of, held_out_parts, logits_of
from edgeres.quantize.calibrators import LEVELS
from edgeres.quantize.channel_classes import FIXED, Classes, channel_classes, scaled
from edgeres.quantize.decision import Decision
from edgeres.quantize.placement import Placement
from edgeres.quantize.simulate import Simulation, round_through
from edgeres.quantize.walk import Images

EPOCHS, BATCH, RATE = 8, 32, 0.02
_BETAS = (0.9, 0.98)  # a hundred steps
_SEED = 0

log = logging.getLogger(__name__)


def channels_scaled(model: onnx.ModelProto, placement: Placement, decision: Decision, *, images: Images) -> Decision:
    """`decision` with scaled weights and biases and the bounds that go with them, the best on held-out images.

    `images`: float32 (N, C, H, W), in random order. Integer weights must not have been decided yet.
    """
    learned_on, held_out = held_out_parts(images)
    exact = GraphNetwork(model).requires_grad_(False)
    simulation = _Scaled(model, placement, decision, classes=channel_classes(model))
    _learn(simulation, logits_of(exact, learned_on), learned_on)
    reference = logits_of(exact, held_out)
    candidates = {"as given": decision, "scaled": simulation.result(model, decision)}
    decibels = {
        name: fidelity_of(reference, logits_of(Simulation(model, placement, found), held_out)).sqnr_db
        for name, found in candidates.items()
    }
    best = max(decibels, key=lambda name: decibels[name])
    verdict = "taken" if best == "scaled" else "not taken"
    log.info("channels %s: %.2f dB scaled, %.2f dB as given", verdict, decibels["scaled"], decibels["as given"])
    return candidates[best]


class _Scaled(Simulation):
    """A simulation whose activations are rounded with a scale per channel: amax_p r_c / 127."""

    def __init__(
        self, model: onnx.ModelProto, placement: Placement, decision: Decision, *, classes: dict[str, Classes]
    ) -> None:
        super().__init__(model, placement, decision)
        self._classes = classes
        self.log_factors = nn.Parameter(torch.zeros(1 + max((int(one.max()) for one in classes.values()), default=0)))
        self.requires_grad_(False)
        for parameter in self.learned:
            parameter.requires_grad_(True)
        for point in placement.points:
            if point.tensor in classes:
                self.network.substitutes[point.tensor] = self._by_channel(point.tensor, point.scale_of)

    @property
    def learned(self) -> list[nn.Parameter]:
        """Logarithms of the factors and of the bounds."""
        return [self.log_factors, *self.log_amax.values()]

    def result(self, model: onnx.ModelProto, decision: Decision) -> Decision:
        """Factors written into weights and biases."""
        factors = self.log_factors.detach().exp().numpy()
        factors[FIXED] = 1
        tensors = scaled(model, self._classes, factors, given=decision.tensors)
        return replace(decision, amax={**decision.amax, **self.bounds()}, tensors={**decision.tensors, **tensors})

    def _by_channel(self, tensor: str, scale_of: str) -> Substitute:
        index = torch.from_numpy(np.asarray(self._classes[tensor]))
        free = (index != FIXED).float()
        bound = self.log_amax[scale_of.replace(".", "/")]

        def quantize(x: Tensor) -> Tensor:
            factors = (self.log_factors[index] * free).exp()
            scale = (bound.exp() / LEVELS * factors).reshape(1, -1, *[1] * (x.ndim - 2))
            quantized: Tensor = round_through((x / scale).clamp(-LEVELS - 1, LEVELS)) * scale
            return quantized

        return quantize


def _learn(simulation: _Scaled, goal: Tensor, images: Images) -> None:
    steps = EPOCHS * math.ceil(len(images) / BATCH)
    optimizer = torch.optim.Adam(simulation.learned, lr=RATE, betas=_BETAS)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator, inputs = torch.Generator().manual_seed(_SEED), torch.from_numpy(images)
    orders = [torch.randperm(len(inputs), generator=generator) for _ in range(EPOCHS)]
    for rows in track([rows for order in orders for rows in torch.split(order, BATCH)], "scale channels", steps):
        optimizer.zero_grad()
        loss = (simulation(inputs[rows]) - goal[rows]).square().sum() / goal[rows].square().sum()
        loss.backward()
        optimizer.step()
        schedule.step()
