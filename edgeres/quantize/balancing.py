"""Factors of channels and bounds of tensors in closed form, from one pass over images forwards and backwards.

Of every quantized tensor the pass keeps a histogram of |x| and the mean of g^2 of each channel c, g the gradient of the
logits' sum with random signs: to first order the noise of the logits is

    sum over tensors p and channels c of  g^2_pc  sum over x of  e(x, amax_p r_c),
    e(x, a) = x^2 below half a step of a / 127,  a^2 / (12 127^2) above,  U (x - a)^2 beyond a

which is smallest over all bounds amax_p (one a tensor) and factors r_c (one a class of channels, `channel_classes`)
where every bound and every factor by itself is best, in turns. Both are whole powers of 2^(1/16), as the histogram's
bins are, so that a bound times a factor is a place in a table. U makes up for what other images would have beyond a.

Source: Hutchinson 1989, "A stochastic estimator of the trace" (random signs).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache, partial

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeres.core.progress import track
from edgeres.quantize.calibrators import LEVELS
from edgeres.quantize.channel_classes import FIXED, Classes
from edgeres.quantize.decision import Decision
from edgeres.quantize.placement import Placement
from edgeres.quantize.simulate import Images, batch_for, batches_of, float_network, quantized_reads

_PER_OCTAVE, _OCTAVES = 16, 16  # of |x|: a bound is known to 4 %, values 2^16 times smaller than the largest are zero
_BINS = _PER_OCTAVE * _OCTAVES
_UNSEEN = 3.0  # 2 to 4 were best on other train images of ResNet-56
_PLACES, _OF_ALL = 64, 4  # of an image at least, or a quarter: images differ more than places, more can be looked at
_TURNS = 30  # until nothing changes: 5 in ResNet-56
_ABOVE = 4  # octaves of the histogram above the bound that was given
_WIDEST = _PER_OCTAVE  # a factor lies between 1 / 2 and 2; outliers are taken back before
_SEED = 0
Floats = NDArray[np.float64]


class Spread:
    """One tensor: how many |x| of each of its `rows` lie in each bin, the last of which ends at 2^`exponent`; and g^2.

    Zeros are left out: rounding leaves them alone. Of an image's places some are looked at, drawn by a seed.
    """

    def __init__(self, exponent: int, rows: int) -> None:
        self._scale = math.ldexp(1.0, exponent)
        self._counts = torch.zeros(rows, _BINS, dtype=torch.float64)
        self._power = torch.zeros(rows, dtype=torch.float64)
        self._generator = torch.Generator().manual_seed(_SEED)
        self.first = exponent * _PER_OCTAVE - _BINS + 1  # the number of the first bin, where bin 0 ends at 1

    def add(self, value: Tensor, gradient: Tensor) -> None:
        """Counts a batch, (N, C, ...) each."""
        rows, flat = len(self._power), [one.reshape(*one.shape[:2], -1) for one in (value, gradient)]
        count = flat[0].shape[2]
        some = torch.randperm(count, generator=self._generator)[: max(_PLACES, count // _OF_ALL)]
        x, g = (one[:, :, some].transpose(0, 1).reshape(rows, -1) for one in flat)
        places = (torch.log2(x.abs() / self._scale) * _PER_OCTAVE).ceil().clamp(-_BINS, 0).long() + _BINS - 1
        inside = places >= 0
        places = (places + torch.arange(rows)[:, None] * _BINS)[inside]
        self._counts += torch.bincount(places, minlength=rows * _BINS).reshape(rows, _BINS)
        self._power += (g.square() * inside).sum(1) * (count / len(some))

    def noise(self) -> Floats:
        """(rows, bins): noise of the logits with the bound at each bin's end."""
        weight = self._power / self._counts.sum(1).clamp_min(1)
        noise: Floats = (weight[:, None] * self._scale**2 * (self._counts @ _errors())).numpy()
        return noise


@cache
def _errors() -> Tensor:
    """(bins, bounds): e(x, a) at each bin's middle and each bin's end, where the last bin ends at 1."""
    ends = 2.0 ** ((torch.arange(_BINS, dtype=torch.float64) + 1 - _BINS) / _PER_OCTAVE)
    x, a = ends[:, None] * 2 ** (-0.5 / _PER_OCTAVE), ends
    step = a / LEVELS
    inside = torch.where(x < step / 2, x.square(), (step.square() / 12).expand(_BINS, _BINS))
    return torch.where(x < a, inside, _UNSEEN * (x - a).square())


def balanced(
    model: onnx.ModelProto,
    placement: Placement,
    decision: Decision,
    *,
    classes: Mapping[str, Classes],
    images: Images,
) -> tuple[dict[str, float], NDArray[np.float32]]:
    """(bound of each tensor that is not zero, once its channels are divided by their factors; factor of each class).

    `decision` has the tensors that stand in the model's place, and bounds that are right to a power of ten.
    """
    spreads = spreads_of(model, placement, decision, classes=classes, images=images)
    noise = {name: found for name, one in spreads.items() if (found := one.noise()).any()}
    labels = {name: classes.get(name, np.zeros(1, np.int64)) for name in noise}
    groups: dict[str, list[str]] = {}
    for point in placement.points:
        if point.tensor in noise:
            groups.setdefault(point.scale_of, []).append(point.tensor)
    factors = np.zeros(1 + max((int(one.max()) for one in classes.values()), default=FIXED), np.int64)
    bounds = dict[str, int]()
    for _ in range(_TURNS):
        before = (dict(bounds), factors)
        for name, tensors in groups.items():
            bounds[name] = _best_bound([(noise[one], spreads[one].first - factors[labels[one]]) for one in tensors])
        factors = np.zeros_like(factors)
        total = np.zeros((len(factors), 2 * _WIDEST + 1))
        for name, tensors in groups.items():
            for one in tensors:
                places = bounds[name] - spreads[one].first + np.arange(-_WIDEST, _WIDEST + 1)
                np.add.at(total, labels[one], noise[one][:, places.clip(0, _BINS - 1)])
        factors = np.where(total.max(1) > 0, total.argmin(1) - _WIDEST, 0)
        factors[FIXED] = 0
        if before[0] == bounds and (before[1] == factors).all():
            break
    powers: NDArray[np.float32] = (2.0 ** (factors / _PER_OCTAVE)).astype(np.float32)
    return {name: 2.0 ** (bound / _PER_OCTAVE) for name, bound in bounds.items()}, powers


def _best_bound(tensors: list[tuple[Floats, NDArray[np.int64]]]) -> int:
    """The bound in bins that is best for `tensors` together: (noise, the number of the first bin of each row)."""
    first = int(tensors[0][1].max())
    numbers = np.arange(first, first + _BINS)
    total = np.zeros(_BINS)
    for noise, firsts in tensors:
        places = (numbers - firsts[:, None]).clip(0, _BINS - 1)
        total += np.take_along_axis(noise, places, 1).sum(0)
    return int(numbers[total.argmin()])


def spreads_of(
    model: onnx.ModelProto,
    placement: Placement,
    decision: Decision,
    *,
    classes: Mapping[str, Classes],
    images: Images,
) -> dict[str, Spread]:
    """Of every quantized tensor with a bound above 0; channels of one without classes count together."""
    network, values = float_network(model, decision), dict[str, Tensor]()

    def tapped(name: str, value: Tensor) -> Tensor:
        """The value itself, which keeps the gradient that reaches it."""
        if name not in values:
            values[name] = value * 1.0 if value.requires_grad else value.clone().requires_grad_(True)
            values[name].retain_grad()
        return values[name]

    network.readers |= quantized_reads(placement, [])
    network.substitutes |= {point.tensor: partial(tapped, point.tensor) for point in placement.points}
    given = {point.tensor: decision.amax[point.scale_of] for point in placement.points}
    found = {
        name: Spread(math.ceil(math.log2(amax)) + _ABOVE, len(classes.get(name, "1")))
        for name, amax in given.items()
        if amax > 0
    }
    generator = torch.Generator().manual_seed(_SEED)
    batch = batch_for(images)
    for x in track(batches_of(images, batch), "balance channels", -(-len(images) // batch)):
        logits = network(x)
        signs = torch.randint(0, 2, logits.shape, generator=generator) * 2.0 - 1
        (logits * signs).sum().backward()
        for name, value in values.items():
            if name in found and value.grad is not None:
                found[name].add(value.detach(), value.grad)
        values.clear()
    return found
