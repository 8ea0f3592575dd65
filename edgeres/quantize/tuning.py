"""Weights, biases and bounds moved a little, so that the quantized network's logits are those of the float one.

    minimise  |z - z_float|^2 / |z_float|^2   by Adam under fake quantization, on unlabelled images

Most of the noise is that of the residual stream, rounded to 7 bits at every module. No choice of bounds takes it away,
but weights that are moved by about a thousandth of their size pass less of it on. The last quarter of the images
decides whether the result is kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx
import torch
from torch import Tensor, nn

from edgeres.core.progress import track
from edgeres.evaluate.distance import evened
from edgeres.graph.execute import GraphNetwork
from edgeres.quantize.auto import closest_of, held_out_parts, logits_of
from edgeres.quantize.decision import Decision
from edgeres.quantize.placement import Placement
from edgeres.quantize.simulate import Images, Simulation, batch_for

WEIGHT_RATE, BOUND_RATE = 3e-6, 5e-3  # of Adam: of weights and biases, and of logarithms of bounds
_MOST_EPOCHS = 4
_BETAS = (0.9, 0.98)  # some hundred steps
_WARM_UP = 0.2  # of the steps
_SEED = 0

Group = tuple[Sequence[nn.Parameter], float]  # and their learning rate


def tuned(model: onnx.ModelProto, placement: Placement, decision: Decision, *, images: Images, passes: int) -> Decision:
    """`decision` itself or with tuned weights, biases and bounds, whichever is closer to float on held-out images.

    `images`: float32 (N, C, H, W), in random order; they are passed `passes` times together, but for whole epochs.
    """
    learned_on, held_out = held_out_parts(images)
    epochs = min(max(round(passes / len(learned_on)), 1), _MOST_EPOCHS)
    simulation = Simulation(model, placement, decision).requires_grad_(False)
    moved = [simulation.network.parameter(name) for name in (*simulation.weights, *simulation.biases)]
    groups = [(moved, WEIGHT_RATE), (list(simulation.log_amax.values()), BOUND_RATE)]
    learn(simulation, groups, images=learned_on, goal=logits_of(GraphNetwork(model), learned_on), epochs=epochs)
    candidates = {"as given": decision, "tuned": simulation.decision()}
    return closest_of(model, placement, candidates, images=held_out)


def learn(simulation: Simulation, groups: Sequence[Group], *, images: Images, goal: Tensor, epochs: int) -> None:
    """Moves the parameters of `groups` so that logits come closer to `goal` (N, K)."""
    for parameters, _ in groups:
        for parameter in parameters:
            parameter.requires_grad_(True)
    batch, even = batch_for(images), evened(goal, simulation.network.sizes)
    steps = epochs * math.ceil(len(images) / batch)
    optimizer = torch.optim.Adam([{"params": list(some), "lr": rate} for some, rate in groups], betas=_BETAS)
    rates = [rate for _, rate in groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=steps, pct_start=_WARM_UP)
    generator, inputs = torch.Generator().manual_seed(_SEED), torch.from_numpy(images)
    orders = [torch.randperm(len(inputs), generator=generator) for _ in range(epochs)]
    for rows in track([rows for order in orders for rows in torch.split(order, batch)], "learn from logits", steps):
        optimizer.zero_grad()
        noise = (simulation(inputs[rows]) - goal[rows]).square() / even
        loss = noise.sum() / (goal[rows].square() / even).sum()
        loss.backward()
        optimizer.step()
        schedule.step()
