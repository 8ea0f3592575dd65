"""Sums over images of one network compared with a reference: accuracy, loss, divergence."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeres.core.spec import ModelSpec
from edgeres.data.split import UNLABELLED, Split
from edgeres.evaluate.distance import KL, Distance
from edgeres.models.network import Network

_LOGITS_RANK = 2


class Batch(NamedTuple):
    """Images float32 (N, C, H, W), labels int64 (N,) and the outputs of the whole network, logits (N, K) mostly.

    Where images have no labels, what it guesses first counts as right.
    """

    images: Tensor
    labels: Tensor
    reference: Tensor


@torch.inference_mode()
def reference_batches(
    network: Network, pairs: Iterable[tuple[Tensor, Tensor]], keep: Callable[[Tensor], Tensor] = lambda outputs: outputs
) -> list[Batch]:
    """(images, labels) with what to `keep` of the outputs of the network as it is now."""
    batches = []
    for images, labels in pairs:
        outputs = keep(network(images))
        has_guesses = outputs.ndim == _LOGITS_RANK and bool((labels == UNLABELLED).all())
        batches.append(Batch(images, outputs.argmax(1) if has_guesses else labels, outputs))
    return batches


@torch.inference_mode()
def right_on(network: nn.Module, split: Split, spec: ModelSpec, batch: int = 250) -> NDArray[np.bool_]:
    """Which images of the split the network, in evaluation mode, gets right: bool (n,); it stays on its device."""
    device = next(network.parameters()).device
    return np.concatenate(
        [
            network(torch.from_numpy(images).to(device)).argmax(1).cpu().numpy() == labels
            for images, labels in split.shown(spec, batch, "guesses")
        ]
    )


@dataclass
class Tally:
    """Sums over images; means are derived. `each` tells of every image whether the first guess was right.

    Of outputs that are no scores of classes nothing is right: `each` has their distance, float64.
    """

    n: int = 0
    correct_top1: int = 0
    correct_top5: int = 0
    loss_sum: float = 0.0
    distance_sum: float = 0.0
    each: list[Tensor] = field(default_factory=list)
    distance: Distance = KL

    def add(self, outputs: Tensor, labels: Tensor, reference: Tensor) -> None:
        """Counts one batch: outputs (N, K), labels (N,), outputs of the reference (N, K)."""
        self.n += len(labels)
        if self.distance.has_classes:
            self._count(outputs, labels)
            self.distance_sum += self.distance.total(outputs, reference)
        else:
            self.each.append(self.distance.each(outputs, reference))
            self.distance_sum += float(self.each[-1].sum())

    def _count(self, logits: Tensor, labels: Tensor) -> None:
        log_p = F.log_softmax(logits.double(), dim=1)
        top = logits.topk(min(5, logits.shape[1]), dim=1).indices
        right = top[:, 0] == labels
        self.correct_top1 += int(right.sum())
        self.correct_top5 += int((top == labels[:, None]).any(1).sum())
        self.loss_sum += float(F.nll_loss(log_p, labels, reduction="sum"))
        self.each.append(right)

    @property
    def accuracy(self) -> float:
        """Share of images whose first guess is right."""
        return self.correct_top1 / self.n

    @property
    def loss(self) -> float:
        """Mean cross-entropy."""
        return self.loss_sum / self.n

    @property
    def apart(self) -> float:
        """Mean distance from the reference: of scores the KL divergence in nats."""
        return self.distance_sum / self.n

    @property
    def sums(self) -> tuple[float, ...]:
        """The numbers without the single images, in the order of the fields."""
        return tuple(value for name, value in vars(self).items() if name not in {"each", "distance"})


def tally_from_sums(rows: Iterable[tuple[float, ...]]) -> Tally:
    """The tally of all the images that `rows` (each a tally's `sums`) are about."""
    n, top1, top5, *rest = (sum(column) for column in zip(*rows, strict=True))
    return Tally(int(n), int(top1), int(top5), *rest)
