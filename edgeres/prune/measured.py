"""Scores of sets of dropped modules, measured on a network: the `Evaluator` that a real search uses.

A score is the mean distance to the whole network over images, lower is better; it needs no labels: of classes
KL(p_whole || p_without S) in nats, of other outputs what `core.distances` says. What stands for the network without S
is what `--score` says:

    kl          the rest as it is
    adaptive    the rest, its batch norms using the statistics of the batch at hand: what a recovery will make of it.
                Adaptive batch norm of Li et al. 2020 (EagleEye), arXiv 2007.02491. Over 14 sets of 4 of the milder
                modules of ResNet-56 the rank correlation with the KL after 56 steps of recovery was 0.94 for this
                score and 0.05 for kl (1,000 images to choose on, 2,000 other train images to judge on:
                tools/score_figures.py)
    solved      the rest once the modules right behind the gaps have been refitted (see repairs): what a solve will
                make of it. Of the same sets it foretells no more (after a solve 0.83, adaptive 0.87); the sets that a
                search finds by it lose less (tools/README.md)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from edgeres.core.distances import kept
from edgeres.core.errors import StageError
from edgeres.core.processes import agreed, shared
from edgeres.core.resuming import Kept
from edgeres.evaluate.distance import KL, Distance
from edgeres.evaluate.subsets import UnitOf, caches_for, own_subsets, walk_subsets
from edgeres.evaluate.sums import Batch, Tally, tally_from_sums
from edgeres.models.network import Network
from edgeres.prune.sets import Subset

_LOGITS_LIMIT_BYTES = 256 << 20
_SAVED_EVERY_S = 5.0
Difference = tuple[Subset, Subset]
Journal = Kept[list[tuple[float, ...]]]  # set -> sums of each batch; "batches base; sets" -> a prediction, alone


def journal_in(path: Path | None = None, key: str = "") -> Journal:
    """What an interrupted search had measured; `key` names everything the numbers depend on."""
    return Kept(path, key, list[tuple[float, ...]], every_s=_SAVED_EVERY_S)


def name_of(subset: Subset) -> str:
    """A set as one string."""
    return " ".join(sorted(subset))


class MeasuredEvaluator:
    """Evaluates on whole batches: "the first 250 images" are the fewest batches that hold 250.

    Every (set, batch) is computed once, whatever the order of calls, and is in the journal from then on. `advance` is
    told the number of (set, image) pairs done, those found in the journal included.
    """

    def __init__(
        self,
        network: Network,
        batches: Sequence[Batch],
        *,
        cache_mib: float = 512,
        journal: Journal | None = None,
        unit_of: UnitOf | None = None,
        distance: Distance = KL,
    ) -> None:
        self._network, self._batches, self._unit_of, self._distance = network, batches, unit_of, distance
        self._caches = caches_for(len(batches), cache_mib)
        self._journal = journal or journal_in()
        self._logits: dict[tuple[Subset, int], Tensor] = {}
        self._logits_bytes = 0
        self._reported: set[tuple[Subset, int]] = set()
        self.advance: Callable[[float], None] = lambda pairs: None

    def __call__(self, sets: Sequence[Subset], *, images: int | None = None) -> list[float]:
        """Scores on the first `images` images; raises StageError if one is not finite."""
        upto = self._batches_for(images)
        mine = own_subsets(self._network, [subset for subset in sets if len(self._sums(subset)) < upto])
        try:
            for number in range(upto):
                self._measure(mine, number)
            self._share(mine)
        finally:
            self._journal.save()
        for number in range(upto):
            self._report(sets, number)
        return [self._checked(self._tally(subset, upto).apart, subset) for subset in sets]

    def tally(self, subset: Subset) -> Tally:
        """All that is known of a set, over all images (without the single images)."""
        self([subset])
        return self._tally(subset, len(self._batches))

    @torch.inference_mode()
    def predict(self, base: Subset, differences: Sequence[Difference], *, images: int | None) -> float:
        """The score of `base`'s logits plus the mean difference of logits."""
        upto, sets = self._batches_for(images), [base, *(subset for pair in differences for subset in pair)]
        key = f"{upto} {'; '.join(map(name_of, sets))}"
        if key not in self._journal.records:
            tally = Tally(distance=self._distance)
            for number, batch in enumerate(self._batches[:upto]):
                logits = self._logits_of({*sets}, number)
                rises = [logits[larger] - logits[smaller] for larger, smaller in differences]
                tally.add(logits[base] + torch.stack(rises).mean(0), batch.labels, batch.reference)
            self._journal.keep(key, [(tally.apart,)])
        return self._journal.records[key][0][0]

    def agree(self) -> None:
        """Makes what the first process knows known to all."""
        self._journal.records = agreed(lambda: self._journal.records)

    def rest(self) -> None:
        """Gives back the memory of activations; what is known of sets stays."""
        for cache in self._caches:
            cache.clear()

    def _share(self, mine: Sequence[Subset]) -> None:
        """Tells all processes what each has measured."""
        logits = {key: one for key, one in self._logits.items() if key[0] in mine}
        for sums, others in shared(lambda: ({name_of(subset): self._sums(subset) for subset in mine}, logits)):
            self._journal.records |= sums
            for key in others.keys() - self._logits.keys():
                self._keep(*key, others[key])

    def _measure(self, sets: Sequence[Subset], number: int) -> None:
        """Fills in the sums of one batch; batches are always filled in order."""
        batch = self._batches[number]
        new = [subset for subset in sets if len(self._sums(subset)) <= number]
        self._report(sets, number)
        for subset, features in walk_subsets(self._network, batch.images, new, self._caches[number], self._unit_of):
            self._record(subset, number, features)
            self._report([subset], number)

    def _report(self, sets: Sequence[Subset], number: int) -> None:
        """Tells `advance` of what is known by now, each (set, batch) once."""
        known = {(subset, number) for subset in sets if len(self._sums(subset)) > number}
        self.advance(len(known - self._reported) * len(self._batches[number].labels))
        self._reported |= known

    @torch.inference_mode()
    def _record(self, subset: Subset, number: int, features: Tensor) -> None:
        logits = self._outputs(features)
        tally = Tally(distance=self._distance)
        tally.add(logits, self._batches[number].labels, self._batches[number].reference)
        self._journal.keep(name_of(subset), [*self._sums(subset), tally.sums])
        self._keep(subset, number, logits)

    def _outputs(self, features: Tensor) -> Tensor:
        return kept(self._network.classify(features), self._distance.sizes)

    def _keep(self, subset: Subset, number: int, logits: Tensor) -> None:
        size = logits.numel() * logits.element_size()
        if self._logits_bytes + size <= _LOGITS_LIMIT_BYTES:
            self._logits[subset, number] = logits
            self._logits_bytes += size

    def _logits_of(self, sets: set[Subset], number: int) -> dict[Subset, Tensor]:
        """Kept logits, or computed again: after a resumption the journal has sums only."""
        found = {subset: self._logits[subset, number] for subset in sets if (subset, number) in self._logits}
        images, missing = self._batches[number].images, sorted(sets - found.keys(), key=name_of)
        for subset, features in walk_subsets(self._network, images, missing, self._caches[number], self._unit_of):
            found[subset] = self._outputs(features)
            self._keep(subset, number, found[subset])
        return found

    def _batches_for(self, images: int | None) -> int:
        seen = 0
        for number, batch in enumerate(self._batches, start=1):
            seen += len(batch.labels)
            if images is not None and seen >= images:
                return number
        return len(self._batches)

    def _tally(self, subset: Subset, upto: int) -> Tally:
        return tally_from_sums(self._sums(subset)[:upto])

    def _sums(self, subset: Subset) -> list[tuple[float, ...]]:
        return self._journal.records.get(name_of(subset), [])

    def _checked(self, score: float, subset: Subset) -> float:
        if not math.isfinite(score):
            without = ", ".join(sorted(subset)) or "any lesion"
            raise StageError(f"prune: without {without} the network gives a {self._distance.name} that is not finite")
        return score


def with_batch_statistics(network: Network) -> Network:
    """`network`, its batch norms changed in place to normalise with the batch they see and to remember nothing."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean = module.running_var = None
    return network
