"""How far a partly quantized network's logits are from those of the float one.

noise     sum((z_float - z)^2) / sum(z_float^2) over all logits z; 10 log10(1 / noise) is the SQNR
KL        mean of KL(softmax z_float || softmax z), in nats
expected loss  mean of p_float(first guess of float) - p_float(first guess): the accuracy that is lost if float's
          probabilities are right; 0 where the guesses agree, and little where float itself cannot decide
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor, arange

from edgeres.core.metrics import Z_95, wilson


@dataclass
class Fidelity:
    """Logits of a partly quantized network against those of the float one; sums over images, the rest is derived."""

    n: int = 0
    noise_power: float = 0.0
    power: float = 0.0
    kl_sum: float = 0.0
    changed: int = 0
    lost: list[float] = field(default_factory=list)
    right_float: int = 0
    right: int = 0
    only_float: int = 0
    labelled: bool = False

    def add(self, reference: Tensor, logits: Tensor, labels: Tensor | None) -> None:
        """Counts one batch: float logits and logits (N, K), labels (N,) or None."""
        before, after = reference.double().log_softmax(1), logits.double().log_softmax(1)
        top, guess = reference.argmax(1), logits.argmax(1)
        self.n += len(logits)
        self.noise_power += float((reference - logits).double().square().sum())
        self.power += float(reference.double().square().sum())
        self.kl_sum += float((before.exp() * (before - after)).sum())
        self.changed += int((top != guess).sum())
        rows = arange(len(logits))
        self.lost += (before.exp()[rows, top] - before.exp()[rows, guess]).tolist()
        if labels is not None:
            self.labelled = True
            self.right_float += int((top == labels).sum())
            self.right += int((guess == labels).sum())
            self.only_float += int(((top == labels) & (guess != labels)).sum())

    @property
    def sqnr_db(self) -> float:
        """Infinite where nothing changed."""
        return 10 * math.log10(self.power / self.noise_power) if self.noise_power else math.inf

    @property
    def kl(self) -> float:
        """Mean, in nats."""
        return self.kl_sum / self.n

    @property
    def disagreement(self) -> float:
        """Share of images whose first guess is not float's."""
        return self.changed / self.n

    @property
    def disagreement_bound(self) -> float:
        """Upper end of the 95 % interval of `disagreement`: no more accuracy than that is lost, on such images."""
        return wilson(self.changed, self.n).high

    @property
    def expected_loss(self) -> float:
        """In points, without labels."""
        return 100 * sum(self.lost) / self.n

    @property
    def measured_loss(self) -> float | None:
        """Accuracy of float minus this one, in points; None without labels."""
        return 100 * (self.right_float - self.right) / self.n if self.labelled else None

    @property
    def loss(self) -> float:
        """Points of accuracy: measured where there are labels, else expected."""
        measured = self.measured_loss
        return self.expected_loss if measured is None else measured

    @property
    def loss_half_width(self) -> float:
        """Of the 95 % interval of `loss`, in points; one more changed image is assumed, or it might be 0."""
        if self.labelled:
            only_other = self.only_float - (self.right_float - self.right)
            return 100 * Z_95 * math.sqrt(self.only_float + only_other + 1) / self.n
        values = np.asarray([*self.lost, 1.0])
        return 100 * Z_95 * float(values.std()) / math.sqrt(len(values))
