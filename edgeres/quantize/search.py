"""Which units to leave out of INT8: as few of an order as are enough, less those that turn out needless."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgeres.quantize.fidelity import Fidelity
from edgeres.quantize.partial import Images, Labels, QuantizedNetwork


@dataclass(frozen=True)
class KeptUnit:
    """One unit of the answer or not: what it costs to leave it out of INT8, what it does alone, whether it is kept."""

    unit: str
    cost: float
    noise: float
    is_kept: bool


@dataclass(frozen=True)
class MixedChoice:
    """`keep`: the units to leave out of INT8, in the graph's order; `reason`: why, in one or two sentences."""

    keep: tuple[str, ...]
    rows: tuple[KeptUnit, ...]
    fidelity: Fidelity
    reason: str


@dataclass(frozen=True)
class HeldOut:
    """Train images (N, C, H, W) that no scale comes from, and their labels if the loss is to be measured."""

    images: Images
    labels: Labels | None = None


class Search:
    """Measures sets of units, each once; `is_good` says of a measurement whether it is enough."""

    def __init__(self, network: QuantizedNetwork, held_out: HeldOut, is_good: Callable[[Fidelity], bool]) -> None:
        self.network, self._held_out, self._is_good = network, held_out, is_good
        self._known: dict[frozenset[str], Fidelity] = {}

    def fidelity(self, keep: frozenset[str]) -> Fidelity:
        """With `keep` left float."""
        if keep not in self._known:
            self._known[keep] = self.network.fidelity(keep, self._held_out.images, self._held_out.labels)
        return self._known[keep]

    def is_enough(self, keep: frozenset[str]) -> bool:
        """Whether nothing more has to be left float."""
        return self._is_good(self.fidelity(keep))

    def cheapest(self, order: list[str]) -> frozenset[str] | None:
        """The first units of `order`, as few as bisection tells, less the needless; None if all are not enough."""
        if self.is_enough(frozenset()):
            return frozenset()
        if not self.is_enough(frozenset(order)):
            return None
        low, high = 0, len(order)  # the first `high` are enough, the first `low` are not
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.is_enough(frozenset(order[:middle])) else (middle, high)
        return self._without_the_needless(order[:high])

    def _without_the_needless(self, order: list[str]) -> frozenset[str]:
        """`order` less what can go back to INT8, the last first."""
        keep = frozenset(order)
        for unit in reversed(order):
            if self.is_enough(keep - {unit}):
                keep = keep - {unit}
        return keep
