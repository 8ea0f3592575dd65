"""One lesion: what a network without one module is worth."""

from __future__ import annotations

from edgeres.core.config import Record
from edgeres.core.metrics import Accuracy, Interval


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
        return Interval.around(0.0 - self.change_points, self.half_width_points)  # not -0.0

    @property
    def error(self) -> Interval:
        """Top-1 error of the network without it in per cent."""
        right = self.accuracy.interval
        return Interval(value=100 * (1 - right.value), low=100 * (1 - right.high), high=100 * (1 - right.low))
