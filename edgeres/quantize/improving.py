"""What an effort learns: channels scaled so that one bound per tensor fits all of them, then everything tuned.

Scaling is exact in float, nothing stays in the graph. Outliers are taken back to the size of the others first
(`outlier_factors`), from the weights alone; then factors and bounds are found together by what they cost the logits
(`balancing`). Then weights, biases and bounds are moved a little, so that the logits are those of the float network:

    minimise  |z - z_float|^2 / |z_float|^2   by Adam under fake quantization, on unlabelled images

Activations' rounding, 7 bits of the stream at every module, is white noise that it leaves as it is (in ResNet-56, with
the average rounded too, 7.5e-4 of the logits' power, alone 31.2 dB); what weights and clipping add goes from 1.4e-4 to
0.8e-4. After each of the two the last quarter of the images decides what of it is kept.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx
import torch

from edgeres.core.artifacts import OnnxModel
from edgeres.core.distances import kept
from edgeres.core.progress import track
from edgeres.evaluate.distance import evened
from edgeres.graph.execute import GraphNetwork
from edgeres.quantize.auto import closest_of, held_out_parts, logits_of
from edgeres.quantize.balancing import balanced
from edgeres.quantize.calibrators import Histogram, mse
from edgeres.quantize.channel_classes import Classes, channel_classes, outlier_factors, scaled
from edgeres.quantize.config import BEST, DEFAULT
from edgeres.quantize.decide import CalibrationImages, Chosen
from edgeres.quantize.decision import Decision
from edgeres.quantize.placement import Placement
from edgeres.quantize.simulate import Images, Simulation, batch_for, batches_of, float_network

CHANNELS, TUNED = "channels", "tuned"
_PASSED_MACS = {DEFAULT: 8.8e11, BEST: 1.3e12}  # of one image, times passes: a minute for 7,000 of ResNet-56, 2 cores
_ENOUGH = 1152  # images to scale by: a few hold values that most do not; 384 of ResNet-56 leave 0.2 dB more noise
WEIGHT_RATE, BOUND_RATE = 3e-6, 5e-3  # of Adam: of weights and biases, and of logarithms of bounds
_MOST_EPOCHS = 4
_BETAS = (0.9, 0.98)  # some hundred steps
_WARM_UP = 0.2  # of the steps
_SEED = 0

log = logging.getLogger(__name__)


def improved(
    source: OnnxModel, placement: Placement, chosen: Chosen, images: CalibrationImages, *, effort: str
) -> Chosen:
    """`chosen` with scaled channels, then tuned, each where it is closer to float; it says what of them was taken.

    It learns by as many of the images as the effort's time allows.
    """
    passes = int(_PASSED_MACS[effort] / max(source.card.cost.macs, 1))
    pixels = images.to_learn(passes)
    log.info("quantize: channels, by %d images", len(pixels))
    scaled = channels_scaled(source.proto, placement, chosen.decision, images=pixels)
    log.info("quantize: tuned, by %d images", len(pixels))
    found = tuned(source.proto, placement, scaled.decision, images=pixels, passes=passes)
    steps = (CHANNELS, chosen.decision, scaled.decision), (TUNED, scaled.decision, found.decision)
    taken = [name for name, before, after in steps if after is not before]
    notes = [*chosen.notes, *scaled.notes, *found.notes]
    return replace(chosen, decision=found.decision, results=chosen.results | {"improve": taken}, notes=notes)


def channels_scaled(model: onnx.ModelProto, placement: Placement, decision: Decision, *, images: Images) -> Chosen:
    """`decision` with scaled weights and biases and the bounds that go with them, the best on held-out images.

    `images`: float32 (N, C, H, W), in random order; the first `_ENOUGH` are looked at once.
    """
    looked_at, held_out = held_out_parts(images)
    looked_at = looked_at[:_ENOUGH]
    classes = channel_classes(model)
    start = _without_outliers(model, classes, decision, looked_at)
    bounds, factors = balanced(model, placement, start, classes=classes, images=looked_at)
    found = replace(
        start,
        amax={**start.amax, **bounds},
        tensors={**start.tensors, **scaled(model, classes, factors, given=start.tensors)},
    )
    candidates = {"as given": decision, "balanced": found}
    if start is not decision:
        candidates["without outliers"] = start
    return closest_of(model, placement, candidates, what=CHANNELS, images=held_out)


def _without_outliers(
    model: onnx.ModelProto, classes: Mapping[str, Classes], decision: Decision, images: Images
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
        for x in batches_of(images, batch_for(images)):
            for name, value in network.values(x, changed).items():
                histograms[name].add(value.numpy())
    log.info("channels: %d outliers scaled first, in %d tensors", len(outliers), len(changed))
    return replace(start, amax={**decision.amax, **{name: mse(one) for name, one in histograms.items()}})


def tuned(model: onnx.ModelProto, placement: Placement, decision: Decision, *, images: Images, passes: int) -> Chosen:
    """`decision` itself or with tuned weights, biases and bounds, whichever is closer to float on held-out images.

    `images`: float32 (N, C, H, W), in random order; they are passed `passes` times together, but for whole epochs.
    """
    learned_on, held_out = held_out_parts(images)
    simulation = Simulation(model, placement, decision).requires_grad_(False)
    moved = [simulation.network.parameter(name).requires_grad_() for name in (*simulation.weights, *simulation.biases)]
    bounds = list(simulation.log_amax.requires_grad_().values())
    rates = [WEIGHT_RATE, BOUND_RATE]
    optimizer = torch.optim.Adam([{"params": moved}, {"params": bounds}], betas=_BETAS)
    epochs, batch = min(max(round(passes / len(learned_on)), 1), _MOST_EPOCHS), batch_for(images)
    steps = epochs * math.ceil(len(learned_on) / batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=steps, pct_start=_WARM_UP)
    goal, inputs = logits_of(GraphNetwork(model), learned_on), torch.from_numpy(learned_on)
    even = evened(goal, simulation.sizes)
    generator = torch.Generator().manual_seed(_SEED)
    orders = [torch.randperm(len(inputs), generator=generator) for _ in range(epochs)]
    for rows in track([rows for order in orders for rows in torch.split(order, batch)], "learn from logits", steps):
        optimizer.zero_grad()
        noise = (kept(simulation(inputs[rows]), simulation.sizes) - goal[rows]).square() / even
        loss = noise.sum() / (goal[rows].square() / even).sum()
        loss.backward()
        optimizer.step()
        schedule.step()
    candidates = {"as given": decision, TUNED: simulation.decision()}
    return closest_of(model, placement, candidates, what=TUNED, images=held_out)
