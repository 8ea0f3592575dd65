"""What a network computes without each of its modules, the shared part computed once.

Removing module i changes only what comes after it, so one pass over the chain gives all lesions: at unit i the
activation is known, its bypass is followed to the end, then the unit itself is applied. For n modules this costs one
forward pass and the n suffixes, about half of n + 1 passes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeres.models.network import Network

WHOLE = ""


@torch.inference_mode()
def walk(
    network: Network, images: Tensor, dropped: Collection[str] = (), candidates: Collection[str] | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Yields (name, logits without that module and without `dropped`), last (WHOLE, logits without `dropped` only).

    `candidates`: the modules to leave out in turn, all that are left by default.
    """
    units = network.units()
    x = network.stem(images)
    for position, (name, unit) in enumerate(units):
        is_there = name not in dropped and not unit.dropped
        if is_there and (candidates is None or name in candidates):
            yield name, _rest(network, unit.bypass(x), position + 1, dropped)
        x = unit.bypass(x) if name in dropped else unit(x)
    yield WHOLE, network.classify(network.tail(x))


def _rest(network: Network, x: Tensor, position: int, dropped: Collection[str]) -> Tensor:
    for name, unit in network.units()[position:]:
        x = unit.bypass(x) if name in dropped else unit(x)
    return network.classify(network.tail(x))


@dataclass
class Tally:
    """Sums over images of one lesioned network, compared with `reference` logits (the whole network's)."""

    n: int = 0
    correct_top1: int = 0
    correct_top5: int = 0
    loss_sum: float = 0.0
    kl_sum: float = 0.0
    right: list[Tensor] = field(default_factory=list)

    def add(self, logits: Tensor, labels: Tensor, reference: Tensor) -> None:
        """Counts one batch: logits (N, K), labels (N,), reference logits (N, K)."""
        log_p = F.log_softmax(logits.double(), dim=1)
        top = logits.topk(min(5, logits.shape[1]), dim=1).indices
        right = top[:, 0] == labels
        self.n += len(labels)
        self.correct_top1 += int(right.sum())
        self.correct_top5 += int((top == labels[:, None]).any(1).sum())
        self.loss_sum += float(F.nll_loss(log_p, labels, reduction="sum"))
        log_q = F.log_softmax(reference.double(), dim=1)
        self.kl_sum += float(F.kl_div(log_p, log_q, reduction="sum", log_target=True))
        self.right.append(right)

    @property
    def loss(self) -> float:
        """Mean cross-entropy."""
        return self.loss_sum / self.n

    @property
    def kl(self) -> float:
        """Mean KL divergence from the reference's distribution to this one's, in nats."""
        return self.kl_sum / self.n


def add_lesions(
    tallies: dict[str, Tally],
    network: Network,
    batch: tuple[Tensor, Tensor, Tensor],
    dropped: Collection[str] = (),
    candidates: Collection[str] | None = None,
) -> None:
    """Adds one batch (images, labels, reference logits) to the tally of every candidate and of WHOLE."""
    images, labels, reference = batch
    for name, logits in walk(network, images, dropped, candidates):
        tallies.setdefault(name, Tally()).add(logits, labels, reference)
