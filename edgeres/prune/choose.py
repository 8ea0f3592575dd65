"""The choice of modules on real images: data, network and search put together.

Everything measured is kept in out_dir/search.json until `close`, so that an interrupted choice goes on and a second
goal (one module more, a little more latency) costs only what is new.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import torch

from edgeres.core.artifacts import Checkpoint
from edgeres.core.distances import LOST_OF, kept, kept_notes
from edgeres.core.errors import InputError
from edgeres.core.metrics import fixed
from edgeres.core.processes import count, is_main, together
from edgeres.core.progress import bar
from edgeres.core.spec import ModelSpec
from edgeres.data import Dataset, Split, data_fingerprint, dataset_for
from edgeres.data.split import OWN_GUESSES
from edgeres.evaluate.distance import Distance, distance_for
from edgeres.evaluate.sums import Batch, reference_batches
from edgeres.models import check_module_names, modules_of
from edgeres.models.network import Network, in_fast_layout
from edgeres.models.weights import load_folded, load_network
from edgeres.prune.config import AFTER_REPAIRS, OF_THE_RESULT, ChoiceConfig
from edgeres.prune.measured import MeasuredEvaluator, journal_in, with_batch_statistics
from edgeres.prune.recover.stage import check_budget
from edgeres.prune.search import search
from edgeres.prune.sets import WHOLE, Found, Goal, Searched, SearchPlan
from edgeres.refit import REPAIRED_ON
from edgeres.refit.repairs import Repairs, repairs_on

JOURNAL_NAME = "search.json"


def candidates_of(spec: ModelSpec, keep: tuple[str, ...]) -> list[str]:
    """The modules that may go, in order of execution; raises InputError for unknown names in `keep`, or if none may."""
    check_module_names(spec, keep)
    left = [info.name for info in modules_of(spec) if info.name not in spec.dropped]
    if not left:
        raise InputError(f"{spec.variant} has no residual module left to drop")
    if {*left} <= {*keep}:
        raise InputError(f"--keep names all modules of {spec.variant} that are left: none may be dropped")
    return [name for name in left if name not in keep]


class Chooser:
    """Answers one goal after another about one network."""

    def __init__(self, source: Checkpoint, config: ChoiceConfig, out_dir: Path) -> None:
        self.candidates = candidates_of(source.spec, config.keep)
        self._source, self._config, self._out_dir = source, config, out_dir
        self.spec = source.spec

    def choose(self, goal: Goal) -> Searched:
        """The best set found that reaches `goal`; raises InputError if none does, or there is no time to recover."""
        config = self._config
        is_begun = config.is_again or (self._out_dir / JOURNAL_NAME).exists()
        if config.budget is not None and not is_begun:
            check_budget(self._source, config.recovery())
        return self._searched(goal)

    @together
    def _searched(self, goal: Goal) -> Searched:
        plan = SearchPlan(images=self.images, width=self._config.carried)
        self._evaluator.agree()
        try:
            with bar("prune: choosing") as shown:
                self._evaluator.advance = shown.advance
                return search(self._evaluator, self.candidates, goal, plan, expect=shown.expect)
        finally:
            self._evaluator.rest()
            if self._repairs is not None:
                self._repairs.rest()

    def __reduce__(self) -> tuple[Any, ...]:
        """Other processes have one of their own for all its goals."""
        return _chooser_of, (self._source, self._source.sha256, self._config, self._out_dir)

    def points(self, dropped: Iterable[str]) -> float:
        """The change without `dropped` on the images chosen on: points of accuracy, or hundredths of the distance."""
        whole, without = self._evaluator.tally(WHOLE), self._evaluator.tally(frozenset(dropped))
        if self.distance.has_classes:
            return 100 * (without.accuracy - whole.accuracy)
        return 100 * (whole.apart - without.apart)

    @together
    def lost_by_module(self) -> dict[str, float]:
        """What each single module costs, as `points` are counted, on the images chosen on."""
        self._evaluator.agree()
        self._evaluator([WHOLE, *(frozenset({name}) for name in self.candidates)])
        return {name: -self.points({name}) for name in self.candidates}

    @together
    def close(self) -> None:
        """Forgets what was kept for going on."""
        _chooser_of.cache_clear()
        (self._out_dir / JOURNAL_NAME).unlink(missing_ok=True)

    @property
    def images(self) -> int:
        """How many images are chosen on."""
        return min(self._config.choose_on, len(self.sample) - self._repaired_on)

    @property
    def used(self) -> Split:
        """The part of `sample` that is looked at: to choose and to repair, or all of it if a recovery follows."""
        return self.sample if self._config.recover else self.sample.subset(range(self.images + self._repaired_on))

    @property
    def _repaired_on(self) -> int:
        """How many others sets are repaired on."""
        return min(REPAIRED_ON, len(self.sample) // 2) if self._config.ranks_by == "solved" else 0

    @cached_property
    def dataset(self) -> Dataset:
        """The data set, labels as the network numbers them."""
        return dataset_for(self._source.spec, self._config.data or "", download=self._config.download)

    @cached_property
    def sample(self) -> Split:
        """The train images that may be chosen and recovered on, in random order."""
        train = self.dataset.train
        if "finetune" in self._config.recover:
            self._source.spec.check_classes("--recover finetune")
            train.check_labelled("--recover finetune")
        return train.sample(min(self._config.images, len(train)), self._config.seed)

    @cached_property
    def _network(self) -> Network:
        return load_folded(self._source)

    @property
    def _lesioned(self) -> Network:
        """The network whose modules are left out; the whole one stays the reference."""
        if self._config.ranks_by != "adaptive":
            return self._network
        return in_fast_layout(with_batch_statistics(load_network(self._source)))

    @cached_property
    def _batches(self) -> list[Batch]:
        spec, part = self.spec, self.sample.subset(range(self.images))
        pairs = [
            (torch.from_numpy(images), torch.from_numpy(labels))
            for images, labels in part.batches(spec, spec.at_once(self._config.batch))
        ]
        return reference_batches(self._network, pairs, partial(kept, sizes=spec.sizes))

    @cached_property
    def distance(self) -> Distance:
        """What tells a network without modules from the whole one."""
        spec = self._source.spec
        return distance_for(spec.task, [batch.reference for batch in self._batches], spec.sizes)

    @property
    def counts_own_guesses(self) -> bool:
        """Whether no label says which answer is right, and the whole network does."""
        return self.spec.task == "classes" and not self.dataset.train.is_labelled

    @property
    def lost_are(self) -> str:
        """What a hundredth that is lost is called."""
        return "points" if self.distance.has_classes else LOST_OF[self.distance.measure]

    @cached_property
    def _evaluator(self) -> MeasuredEvaluator:
        self._out_dir.mkdir(parents=True, exist_ok=True)
        return MeasuredEvaluator(
            self._lesioned,
            self._batches,
            cache_mib=self._cache_mib,
            journal=journal_in(self._out_dir / JOURNAL_NAME if is_main() else None, self._key()),
            unit_of=self._repairs,
            distance=self.distance,
        )

    @property
    def _cache_mib(self) -> float:
        """Of each process; repairs have activations of their own, so each gets half of the memory."""
        return self._config.cache_mib / (2 if self._config.ranks_by == "solved" else 1) / count()

    @cached_property
    def _repairs(self) -> Repairs | None:
        """What makes up for gaps before a set is judged; None if sets are judged as they are."""
        if self._config.ranks_by != "solved":
            return None
        part = self.sample.subset(range(self.images, self.images + self._repaired_on))
        return repairs_on(part, self._network, self._source.spec, cache_mib=self._cache_mib)

    def _key(self) -> str:
        """What the measured sums depend on."""
        config = self._config
        numbers = (config.images, config.choose_on, config.seed, config.batch, config.ranks_by, self.distance.measure)
        parts = [self._source.sha256, data_fingerprint(config.data or ""), *numbers]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@lru_cache(maxsize=1)
def _chooser_of(source: Checkpoint, sha256: str, config: ChoiceConfig, out_dir: Path) -> Chooser:
    return Chooser(source, config, out_dir)


def choice_results(chooser: Chooser, found: Searched, config: ChoiceConfig) -> dict[str, Any]:
    """What was chosen and what independent ranking would have, both on the images chosen on."""
    distance, measured_by = chooser.distance, dict[str, str]()
    if distance.measure != "kl":
        measured_by["measure"] = distance.measure
    if distance.why:
        measured_by["measured_so_because"] = distance.why
    return {
        "score_name": config.ranks_by,
        "criterion": config.ranks_by,
        "score": found.best.score,
        "points": chooser.points(found.best.dropped),
        "points_are": config.points_are,
        **measured_by,
        "independent": {
            "dropped": list(found.independent.dropped),
            "score": found.independent.score,
            "points": chooser.points(found.independent.dropped),
        },
        "images_chosen_on": chooser.images,
        "evaluated": found.evaluated,
        "screened": found.screened,
        "passes": round(found.passes, 3),
        "singles": {name: round(score, 6) for name, score in found.singles.items()},
        "levels": [{"dropped": list(level.dropped), "score": level.score} for level in found.levels],
    }


def choice_notes(chooser: Chooser, found: Searched, config: ChoiceConfig) -> list[str]:
    """The chosen set and the independent one side by side; points lost are positive."""
    distance, when = chooser.distance, "" if config.points_are == OF_THE_RESULT else f" {config.points_are},"
    if config.points_are == AFTER_REPAIRS and not config.recover:
        when = f" {AFTER_REPAIRS} (edgeres recover makes them),"
    on = f"{when} on the {chooser.images:,} train images chosen on".lstrip()

    def cost(one: Found) -> str:
        lost = fixed(-chooser.points(one.dropped), 1)
        if not distance.has_classes:
            return f"{distance.name} {one.score:.4g}"
        score = config.ranks_by if distance.measure == "kl" else distance.name
        return f"{score} {one.score:.4g}, {lost} points lost"

    chosen, alone = f"chosen together: {cost(found.best)} {on}", found.independent
    said = [f"decided by the {distance.name}: {distance.why}"] if distance.why else []
    said += kept_notes(chooser.spec)
    said += [OWN_GUESSES] if chooser.counts_own_guesses else []
    if {*alone.dropped} == {*found.best.dropped}:
        return [f"{chosen}; ranked one by one the set is the same", *said]
    return [chosen, f"ranked one by one: {cost(alone)} ({', '.join(alone.dropped)})", *said]
