"""Equalization: channels scaled against each other so that one step size suits them all; exact in float.

    row c of the weights (and bias) that make a channel  / r_c        column c of those that read it  * r_c,   r_c > 0

A tensor has one step for all channels, A / 127; scaled, channel c is rounded in steps of r_c A / 127 of its own units.
The r_c of a class of channels (`channel_classes`) and the bounds A of all tensors together minimise

    sum over tensors of  e / e_1,   e = mean over channels of  p (r A / 127)^2 / 12  +  E[max(|x| - r A, 0)^2]

p being the share of values that are not zero, e_1 the error of the best single step. Residual streams are scaled too:
every module of a stage writes and reads the same channels.
Source: the invariance is that of Nagel et al. 2019, arXiv 1906.04721, equations 3 to 7, used there for weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeres.graph.execute import GraphNetwork
from edgeres.quantize.calibrators import LEVELS
from edgeres.quantize.channel_classes import FIXED, Classes, channel_classes, scaled
from edgeres.quantize.decision import Decision
from edgeres.quantize.placement import Placement
from edgeres.quantize.simulate import batches_of
from edgeres.quantize.walk import Images

_LARGEST_FACTOR = 8.0
_STEPS = 200
_LR = 0.03  # of logarithms
_BINS = 256  # of each channel's range
_BATCH = 32
_NOISE = 1 / (12 * LEVELS**2)  # of rounding, over the square of the bound
_FRACTIONS = np.linspace(0.2, 1, 33)  # of the largest value, tried as the single bound


def equalized(model: onnx.ModelProto, placement: Placement, decision: Decision, *, images: Images) -> Decision:
    """`decision` with scaled weights and biases and the bounds that go with them; float logits stay what they were.

    `images`: calibration images float32 (N, C, H, W). Starts from the model's own weights.
    """
    classes = channel_classes(model)
    seen = _observed(model, [name for name in placement.observed if name in classes], images)
    solution = _solved(seen, classes)
    tensors = scaled(model, classes, solution.factors)
    return replace(decision, amax={**decision.amax, **solution.bounds}, tensors={**decision.tensors, **tensors})


@dataclass(frozen=True)
class _Solution:
    """r of every class, and the bound of every tensor after scaling."""

    factors: NDArray[np.float32]
    bounds: dict[str, float]


def _solved(seen: dict[str, _Channels], classes: dict[str, Classes]) -> _Solution:
    """Adam on the logarithms; smooth, so a few hundred steps settle it."""
    n = 1 + max((int(one.max()) for one in classes.values()), default=FIXED)
    best = {name: channels.single() for name, channels in seen.items()}
    log_r = torch.zeros(n, requires_grad=True)
    log_a = torch.tensor([math.log(bound) for bound, _ in best.values()], requires_grad=True)
    free = torch.ones(n)
    free[FIXED] = 0
    optimizer = torch.optim.Adam([log_r, log_a], lr=_LR)
    limit = math.log(_LARGEST_FACTOR)
    for _ in range(_STEPS):
        optimizer.zero_grad()
        factors = (free * log_r.clamp(-limit, limit)).exp()
        loss = torch.zeros(())
        for (name, channels), bound in zip(seen.items(), log_a.exp(), strict=True):
            loss = loss + channels.error(factors[torch.from_numpy(classes[name])] * bound) / best[name][1]
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        factors = (free * log_r.clamp(-limit, limit)).exp()
    return _Solution(factors.numpy(), dict(zip(seen, log_a.detach().exp().tolist(), strict=True)))


@dataclass
class _Channels:
    """How often |x| of each channel fell into each bin: `counts` (C, bins), from 0 to `largest` (C,), zeros apart."""

    largest: Tensor
    counts: Tensor
    n: int = 0

    def add(self, magnitude: Tensor) -> None:
        """Counts |x| (C, n), none beyond `largest`."""
        share = magnitude / self.largest.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
        bins = (share * _BINS).long().clamp(0, _BINS - 1) + torch.arange(len(magnitude))[:, None] * _BINS
        counts = torch.bincount(bins[magnitude > 0], minlength=self.counts.numel())
        self.counts += counts.reshape(self.counts.shape)
        self.n += magnitude.shape[1]

    @property
    def centres(self) -> Tensor:
        """Of the bins, (C, bins)."""
        return (torch.arange(_BINS) + 0.5) / _BINS * self.largest[:, None]

    def error(self, bounds: Tensor) -> Tensor:
        """The error e for the bounds (C,)."""
        rounding = self.counts.sum(1) / self.n * bounds.square() * _NOISE
        clipping = (self.counts * (self.centres - bounds[:, None]).clamp_min(0).square()).sum(1) / self.n
        return (rounding + clipping).mean()

    def single(self) -> tuple[float, float]:
        """(bound, error) of the best bound for all channels."""
        largest = float(self.largest.max()) or 1.0
        tried = [(float(self.error(torch.full_like(self.largest, largest * f))), largest * f) for f in _FRACTIONS]
        error, bound = min(tried)
        return bound, error or 1.0


def _observed(model: onnx.ModelProto, tensors: list[str], images: Images) -> dict[str, _Channels]:
    """Two passes: the largest |x| of every channel, then the counts."""
    largest: dict[str, Tensor] = {}
    for name, magnitude in _magnitudes(model, tensors, images):
        top = magnitude.amax(1)
        largest[name] = torch.maximum(largest[name], top) if name in largest else top
    found = {name: _Channels(top, torch.zeros(len(top), _BINS)) for name, top in largest.items()}
    for name, magnitude in _magnitudes(model, tensors, images):
        found[name].add(magnitude)
    return found


def _magnitudes(model: onnx.ModelProto, tensors: list[str], images: Images) -> Iterator[tuple[str, Tensor]]:
    """(tensor, |x| (C, n)), batch by batch."""
    network = GraphNetwork(model)
    for x in batches_of(images, _BATCH):
        with torch.no_grad():
            values = network.values(x, tensors)
        for name, value in values.items():
            yield name, value.abs().transpose(0, 1).flatten(1)
