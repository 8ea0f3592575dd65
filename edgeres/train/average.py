"""Averaged weights (EMA), batch-norm statistics included."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

_RAMP = 10


def averaged_model(network: nn.Module, decay: float) -> AveragedModel:
    """A copy of `network` that follows it as a <- d a + (1 - d) w with d = min(decay, (1 + n) / (10 + n)).

    The ramp lets a short training forget its first steps (as in TensorFlow's ExponentialMovingAverage).
    """

    @torch.no_grad()
    def follow(averages: Any, currents: Any, count: Any) -> None:
        n = float(count)
        keep = min(decay, (1 + n) / (_RAMP + n))
        for average, current in zip(averages, currents, strict=True):
            _follow_one(average, current, keep)

    return AveragedModel(network, multi_avg_fn=follow, use_buffers=True)


def _follow_one(average: Tensor, current: Tensor, keep: float) -> None:
    if average.is_floating_point():
        average.lerp_(current, 1 - keep)
    else:
        average.copy_(current)
