"""One lesion: what a network without one module is worth."""

from __future__ import annotations

from edgeres.core.config import Record
from edgeres.core.metrics import Accuracy


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
    def cost_points(self) -> tuple[float, float, float]:
        """Top-1 lost without it, and the bounds of its 95 % interval."""
        cost = 0.0 - self.change_points  # not -0.0
        return cost, cost - self.half_width_points, cost + self.half_width_points
