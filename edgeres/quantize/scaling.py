"""Channels scaled so that one bound per tensor fits all of them: exact in float, nothing stays in the graph.

Outliers are taken back to the size of the others first (`outlier_factors`), from the weights alone; then factors and
bounds are found together by what they cost the logits (`balancing`). The last quarter of the images decides what of it
is kept.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx
import torch

from edgeres.quantize.auto import closest_of, held_out_parts
from edgeres.quantize.balancing import balanced
from edgeres.quantize.calibrators import mse
from edgeres.quantize.channel_classes import Classes, channel_classes, outlier_factors, scaled
from edgeres.quantize.decision import Decision
from edgeres.quantize.histogram import Histogram
from edgeres.quantize.placement import Placement
from edgeres.quantize.simulate import Images, batch_for, batches_of, float_network

_ENOUGH = 512

log = logging.getLogger(__name__)


def channels_scaled(
    model: onnx.ModelProto, placement: Placement, decision: Decision, *, images: Images, passes: int = 1
) -> Decision:
    """`decision` with scaled weights and biases and the bounds that go with them, the best on held-out images.

    `images`: float32 (N, C, H, W), in random order; the first `_ENOUGH` are looked at once, whatever `passes` allow.
    """
    looked_at, held_out = held_out_parts(images[:_ENOUGH])
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
    return closest_of(model, placement, candidates, images=held_out)


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
