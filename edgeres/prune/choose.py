"""Conditional greedy choice: drop the module that hurts least, look again, drop the next.

Single lesions do not add up (two modules of one stage can replace each other, but not both be gone), so each step
measures the remaining modules on the network as already pruned. Score, label-free by default:

    kl(S)   = mean over images of KL(p_whole || p_without S), in nats
    loss(S) = mean cross-entropy without S

A module's score in an earlier step is taken as a lower bound of its score now (more is missing now), so a lazy step
measures modules in the order of their old scores and stops when the best new score is below the next old one. Where
the bound holds the choice is the full one. Source of the lazy step: Minoux 1978, accelerated greedy.
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
_GROUP = 4  # modules measured in one walk, which share what comes before them


@dataclass(frozen=True)
class Step:
    """One choice: the winner, and the scores measured in this step given what was dropped before."""

    chosen: str
    scores: dict[str, float]
    images: int


def greedy(
    network: Network,
    batches: Sequence[Batch],
    *,
    count: int,
    candidates: Sequence[str],
    score: str = "kl",
    lazy: bool = True,
) -> list[Step]:
    """`count` steps over (images, labels, reference logits) batches; ties go to the later module."""
    images = sum(len(labels) for _, labels, _ in batches)
    steps: list[Step] = []
    known: dict[str, float] = {}
    for _ in track(range(count), "prune: choosing", count):
        dropped = [step.chosen for step in steps]
        left = [name for name in candidates if name not in dropped]

        def measure(names: Sequence[str], dropped: Sequence[str] = dropped) -> dict[str, float]:
            return _scores(network, batches, dropped, names, SCORES[score])

        scores = _lazy(left, known, measure) if lazy and known else measure(left)
        known |= scores
        chosen = min((name for name in reversed(left) if name in scores), key=scores.__getitem__)
        steps.append(Step(chosen, scores, images))
    return steps


def reference_batches(network: Network, pairs: Sequence[tuple[Tensor, Tensor]]) -> list[Batch]:
    """(images, labels) with the logits of the network as it is now."""
    with torch.inference_mode():
        return [(images, labels, network(images)) for images, labels in pairs]


def _lazy(
    left: Sequence[str], known: dict[str, float], measure: Callable[[Sequence[str]], dict[str, float]]
) -> dict[str, float]:
    """New scores of as many modules as it takes until none of the others can be better."""
    waiting = sorted(left, key=known.__getitem__)
    scores: dict[str, float] = {}
    while waiting and (not scores or known[waiting[0]] < min(scores.values())):
        scores |= measure(waiting[:_GROUP])
        del waiting[:_GROUP]
    return scores


def _scores(
    network: Network, batches: Sequence[Batch], dropped: Sequence[str], names: Sequence[str], score: Score
) -> dict[str, float]:
    tallies: dict[str, Tally] = {}
    for batch in batches:
        add_lesions(tallies, network, batch, dropped, names)
    return {name: score(tally) for name, tally in tallies.items() if name != WHOLE}
