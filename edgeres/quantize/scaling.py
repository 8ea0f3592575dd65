"""Channels scaled so that one bound per tensor fits all of them: learned from the logits, exact in float.

The factor of each class of channels (`channel_classes`) and the bound of each tensor are learned together:

    minimise  |z - z_float|^2 / |z_float|^2,   rounding of tensor p, channel c:  s = amax_p r_c / 127

by Adam under fake quantization on unlabelled calibration images (a parameter for each channel of a stage and each
tensor: few, so that some hundred images suffice). Some hundred steps move a factor about as far as e: outliers are
taken back first. Afterwards weights and biases carry the factors and nothing stays in the graph. The last quarter of
the images decides whether the result is kept.
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
from edgeres.graph.execute import GraphNetwork, Substitute, key_of
from edgeres.quantize.auto import decibels_of, held_out_parts, logits_of
from edgeres.quantize.calibrators import LEVELS, mse
from edgeres.quantize.channel_classes import FIXED, Classes, channel_classes, outlier_factors, scaled
from edgeres.quantize.decision import Decision
from edgeres.quantize.histogram import Histogram
from edgeres.quantize.placement import Placement
from edgeres.quantize.simulate import Images, Simulation, batches_of, float_network, round_through

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
    classes = channel_classes(model)
    start = _without_outliers(model, classes, decision, learned_on)
    simulation = _Scaled(model, placement, start, classes=classes)
    _learn(simulation, logits_of(exact, learned_on), learned_on)
    candidates = {"as given": decision, "scaled": simulation.result(model, start)}
    decibels = decibels_of(model, placement, candidates, images=held_out)
    best = max(decibels, key=lambda name: decibels[name])
    verdict = "taken" if best == "scaled" else "not taken"
    log.info("channels %s: %.2f dB scaled, %.2f dB as given", verdict, decibels["scaled"], decibels["as given"])
    return candidates[best]


def _without_outliers(
    model: onnx.ModelProto, classes: dict[str, Classes], decision: Decision, images: Images
) -> Decision:
    """`decision` itself, or with outliers scaled to the size of the others and new bounds for their tensors."""
    factors = outlier_factors(model, classes, given=decision.tensors)
    outliers = np.flatnonzero(factors != 1)
    if not len(outliers):
        return decision
    tensors = scaled(model, classes, factors, given=decision.tensors)
    start = replace(decision, tensors={**decision.tensors, **tensors})
    changed = [name for name in decision.amax if name in classes and np.isin(classes[name], outliers).any()]
    histograms = {name: Histogram(name) for name in changed}
    network = float_network(model, start)
    with torch.inference_mode():
        for x in batches_of(images, BATCH):
            for name, value in network.values(x, changed).items():
                histograms[name].add(value.numpy())
    log.info("channels: %d outliers scaled first, in %d tensors", len(outliers), len(changed))
    return replace(start, amax={**decision.amax, **{name: mse(one) for name, one in histograms.items()}})


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
        bound = self.log_amax[key_of(scale_of)]

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
