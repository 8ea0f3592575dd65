"""One lesion: what a network without one module is worth."""

from __future__ import annotations

from typing import Any

from pydantic import SerializerFunctionWrapHandler, model_serializer

from edgeres.core.config import Record
from edgeres.core.distances import Measure
from edgeres.core.metrics import Accuracy, Interval


class Images(Record):
    """What outputs without classes were judged on."""

    n: int
    dataset: str
    split: str
    runtime: str


class Refitted(Record):
    """The same once the module behind the gap was refitted to what the whole network gives there."""

    kl: float
    change_points: float
    half_width_points: float

    @property
    def cost(self) -> Interval:
        """As of the lesion."""
        return Interval.around(0.0 - self.change_points, self.half_width_points)


class Lesion(Record):
    """The network without one module, on the images the whole network was judged on.

    `kl` is the distance to the whole network, which `measure` names. Where that is not the divergence of scores nothing
    can be right: there is no accuracy and no loss, and points are hundredths of the distance.
    """

    module: str
    kind: str
    accuracy: Accuracy | None = None
    loss: float | None = None
    kl: float
    change_points: float
    half_width_points: float
    measure: Measure = "kl"
    images: Images | None = None
    refitted: Refitted | None = None

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        later = {"measure", "images"} if self.measure == "kl" else {"accuracy", "loss"}
        return {name: value for name, value in write(self).items() if name not in later}

    @property
    def n(self) -> int:
        """On how many images."""
        return self.judged_on.n

    @property
    def judged_on(self) -> Accuracy | Images:
        """Images and runtime."""
        judged = self.accuracy or self.images
        assert judged is not None
        return judged

    @property
    def cost(self) -> Interval:
        """Points of top-1 lost without it, positive; or hundredths of the distance."""
        return Interval.around(0.0 - self.change_points, self.half_width_points)  # not -0.0

    @property
    def error(self) -> Interval:
        """Top-1 error of the network without it in per cent; or the distance in hundredths."""
        if self.accuracy is None:
            return self.cost
        right = self.accuracy.interval
        return Interval(value=100 * (1 - right.value), low=100 * (1 - right.high), high=100 * (1 - right.low))
