"""What a network computes without each of its modules: the single lesions, as one walk (see `subsets`).

For n modules this costs one forward pass and the n suffixes, about half of n + 1 passes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
from torch import Tensor

from edgeres.evaluate.subsets import walk_subsets
from edgeres.evaluate.tally import Tally
from edgeres.models.network import Network

__all__ = ["WHOLE", "Tally", "add_lesions", "walk"]
WHOLE = ""


@torch.inference_mode()
def walk(
    network: Network, images: Tensor, dropped: Collection[str] = (), candidates: Collection[str] | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Yields (name, logits without that module and without `dropped`), last (WHOLE, logits without `dropped` only).

    `candidates`: the modules to leave out in turn, all that are left by default.
    """
    gone = frozenset(dropped)
    left = [name for name, unit in network.units() if name not in gone and not unit.dropped]
    lesions = {gone | {name}: name for name in left if candidates is None or name in candidates}
    for subset, features in walk_subsets(network, images, [*lesions, gone]):
        yield lesions.get(subset, WHOLE), network.classify(features)


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
