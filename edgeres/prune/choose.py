"""Conditional greedy choice: drop the module that hurts least, look again, drop the next.

Single lesions do not add up (two modules of one stage can replace each other, but not both be gone), so each step
measures every remaining module on the network as already pruned. Score, label-free by default:

    kl(S)   = mean over images of KL(p_whole || p_without S), in nats
    loss(S) = mean cross-entropy without S

Source of the observation: Veit et al. 2016 for lesions; the conditional choice is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgeres.core.progress import track
from edgeres.evaluate.lesions import WHOLE, Tally, add_lesions
from edgeres.models.network import Network

Batch = tuple[Tensor, Tensor, Tensor]
Score = Callable[[Tally], float]
SCORES: dict[str, Score] = {"kl": lambda tally: tally.kl, "loss": lambda tally: tally.loss}


@dataclass(frozen=True)
class Step:
    """One choice: the scores of all candidates given what was dropped before, and the winner."""

    chosen: str
    scores: dict[str, float]
    images: int


def greedy(
    network: Network, batches: Sequence[Batch], *, count: int, candidates: Sequence[str], score: str = "kl"
) -> list[Step]:
    """`count` steps over (images, labels, reference logits) batches; ties go to the later module."""
    steps: list[Step] = []
    dropped: list[str] = []
    for _ in track(range(count), "prune: choosing", count):
        left = [name for name in candidates if name not in dropped]
        scores = _scores(network, batches, dropped, left, SCORES[score])
        chosen = min(reversed(left), key=scores.__getitem__)
        dropped.append(chosen)
        steps.append(Step(chosen, scores, sum(len(labels) for _, labels, _ in batches)))
    return steps


def reference_batches(network: Network, pairs: Sequence[tuple[Tensor, Tensor]]) -> list[Batch]:
    """(images, labels) with the logits of the network as it is now."""
    with torch.inference_mode():
        return [(images, labels, network(images)) for images, labels in pairs]


def _scores(
    network: Network, batches: Sequence[Batch], dropped: list[str], left: list[str], score: Score
) -> dict[str, float]:
    tallies: dict[str, Tally] = {}
    for batch in batches:
        add_lesions(tallies, network, batch, dropped, left)
    return {name: score(tally) for name, tally in tallies.items() if name != WHOLE}
