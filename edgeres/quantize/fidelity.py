"""How far a partly quantized network's logits are from those of the float one.

noise     sum((z_float - z)^2) / sum(z_float^2) over all logits z; 10 log10(1 / noise) is the SQNR
expected loss  mean of p_float(first guess of float) - p_float(first guess): the accuracy that is lost if float's
          probabilities are right; 0 where the guesses agree, and little where float itself cannot decide
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor, arange

from edgeres.core.distances import kept
from edgeres.core.metrics import Z_95, Interval, decibels, wilson
from edgeres.evaluate.agreement import Comparison
from edgeres.evaluate.distance import evened

_LOGITS_RANK = 2


@dataclass
class Fidelity(Comparison):
    """Logits of a partly quantized network (B) against those of the float one (A); sums over images.

    Of several outputs, by their `sizes`, each counts alike: powers are over the output's own in the first batch.
    """

    sizes: tuple[int, ...] = ()
    noise_power: float = 0.0
    power: float = 0.0
    lost: list[float] = field(default_factory=list)
    _even: Tensor | None = None

    def add(self, reference: Tensor, logits: Tensor) -> None:
        """Counts one batch: float logits and logits (N, K), what is `kept` of both."""
        reference, logits = kept(reference, self.sizes), kept(logits, self.sizes)
        if self._even is None:
            self._even = evened(reference.double(), self.sizes)
        self.noise_power += float(((reference - logits).double().square() / self._even).sum())
        self.power += float((reference.double().square() / self._even).sum())
        if reference.ndim == _LOGITS_RANK and not self.sizes:  # what has no row of scores has no guess
            self._count_guesses(reference, logits)

    def _count_guesses(self, reference: Tensor, logits: Tensor) -> None:
        sure, rows = reference.double().log_softmax(1).exp(), arange(len(logits))
        top, guess = reference.argmax(1), logits.argmax(1)
        self.count(top, guess)
        self.lost += (sure[rows, top] - sure[rows, guess]).tolist()

    @property
    def sqnr_db(self) -> float:
        """Infinite where nothing changed."""
        return decibels(self.power, self.noise_power)

    @property
    def disagreement(self) -> Interval:
        """Share of images whose first guess is not float's: no more accuracy than its upper end is lost."""
        return wilson(self.n - self.same, self.n)

    @property
    def loss(self) -> float:
        """Points of accuracy that are expected to be lost."""
        return 100 * sum(self.lost) / self.n

    @property
    def loss_half_width(self) -> float:
        """Of the 95 % interval of `loss`, in points; one more changed image is assumed, or it might be 0."""
        values = np.asarray([*self.lost, 1.0])
        return 100 * Z_95 * float(values.std()) / math.sqrt(len(values))
