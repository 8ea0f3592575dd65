"""One lesion: what a network without one module is worth."""

from __future__ import annotations

from edgeres.core.config import Record
from edgeres.core.metrics import Accuracy
from edgeres.core.statistics import Interval


class Lesion(Record):
    """The network without one module, on the images the whole network was judged on."""

    module: str
    kind: str
    accuracy: Accuracy
    loss: float
    kl: float
    change_points: float
    half_width_points: float

    @property
    def cost(self) -> Interval:
        """Points of top-1 lost without it, positive."""
        cost = 0.0 - self.change_points  # not -0.0
        return Interval(value=cost, low=cost - self.half_width_points, high=cost + self.half_width_points)

    @property
    def error(self) -> Interval:
        """Top-1 error of the network without it in per cent."""
        low, high = self.accuracy.interval
        return Interval(value=100 * (1 - self.accuracy.top1), low=100 * (1 - high), high=100 * (1 - low))
