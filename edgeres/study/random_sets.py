"""Sets of modules deleted at random, and what they cost beyond the sum of their members.

    coupling(S) = (L(S) - L(0)) / sum over i in S of (L({i}) - L(0))        L: mean loss, or mean KL

1: the members' costs add up. More: the modules stand in for each other, so one is missed little and several much.
Less: they do the same work twice over, or the loss has nowhere left to go. The figure is the median over the sets;
sets whose members cost nothing together have none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from edgeres.core.config import Record
from edgeres.core.metrics import Interval
from edgeres.core.processes import shared
from edgeres.core.spec import ModelSpec
from edgeres.core.statistics import resampled_interval
from edgeres.data import Split
from edgeres.evaluate.subsets import own_subsets, walk_subsets
from edgeres.models.network import Network
from edgeres.study.outcomes import Floats, Indices, Outcomes, outcomes_of, redrawn, resampled_means

Modules = tuple[str, ...]


class SetLesion(Record):
    """The network without some modules, `k` of them."""

    k: int
    modules: Modules
    error_percent: float
    loss: float
    kl: float


class Coupling(Record):
    """Medians over the sets of `k` modules (None: all sets); `left_out` sets have no ratio of losses."""

    k: int | None
    sets: int
    left_out: int
    loss: Interval | None
    kl: Interval | None


def random_sets(candidates: Sequence[str], *, largest: int, draws: int, seed: int) -> list[Modules]:
    """Every candidate by itself, then for k = 2, 3, ... up to `largest` so many different sets, in chain order."""
    generator = np.random.default_rng(seed)
    sets: list[Modules] = [(name,) for name in candidates]
    for k in range(2, min(largest, len(candidates)) + 1):
        wanted, found = min(draws, math.comb(len(candidates), k)), dict[Modules, None]()
        while len(found) < wanted:
            places = np.sort(generator.choice(len(candidates), k, replace=False))
            found[tuple(candidates[place] for place in places)] = None
        sets += found
    return sets


def outcomes_without(
    network: Network, images: Split, spec: ModelSpec, sets: Sequence[Modules], *, batch: int
) -> dict[Modules, Outcomes]:
    """The network without each of the sets; () is the whole network."""
    wanted = {frozenset(modules): modules for modules in ((), *sets)}
    mine = own_subsets(network, wanted)
    found = shared(
        lambda: outcomes_of(
            network,
            images,
            spec,
            lambda x: ((wanted[key], network.classify(y)) for key, y in walk_subsets(network, x, mine)),
            batch=batch,
            description=f"{len(sets)} sets of modules",
        )
    )
    return {modules: one for part in found for modules, one in part.items()}


def rows_of(outcomes: Mapping[Modules, Outcomes]) -> tuple[SetLesion, ...]:
    """One row a set, the whole network first, smaller sets before larger ones."""
    return tuple(
        SetLesion(
            k=len(modules),
            modules=modules,
            error_percent=one.error_percent,
            loss=float(one.loss.mean()),
            kl=float(one.kl.mean()),
        )
        for modules, one in sorted(outcomes.items(), key=lambda item: (len(item[0]), item[0]))
    )


def couplings_of(outcomes: Mapping[Modules, Outcomes], *, seed: int = 0) -> tuple[Coupling, ...]:
    """For all sets of at least two modules together (k None), then for every k.

    `outcomes` holds the whole network () and every member by itself; empty if there is no set of two.
    """
    sets = sorted((modules for modules in outcomes if len(modules) > 1), key=lambda modules: (len(modules), modules))
    if not sets:
        return ()
    generator = np.random.default_rng(seed)
    sizes = np.asarray([len(modules) for modules in sets])
    places = redrawn(sizes.tolist(), generator)
    loss = _ratios({m: one.loss for m, one in outcomes.items()}, sets, np.random.default_rng(seed))
    kl = _ratios({m: one.kl for m, one in outcomes.items()}, sets, np.random.default_rng(seed))

    def coupling(k: int | None) -> Coupling:
        chosen = sizes == k if k is not None else np.full(len(sets), True)
        return Coupling(
            k=k,
            sets=int(chosen.sum()),
            left_out=int(np.isnan(loss[0][chosen]).sum()),
            loss=_median(*loss, places, chosen),
            kl=_median(*kl, places, chosen),
        )

    return tuple(coupling(k) for k in (None, *np.unique(sizes).tolist()))


def _ratios(
    values: Mapping[Modules, Floats], sets: Sequence[Modules], generator: np.random.Generator
) -> tuple[Floats, Floats]:
    """(ratio of every set (V,), the same over resampled images (B, V)); NaN where the members cost nothing."""
    members = sorted({name for modules in sets for name in modules})
    columns = [(), *((name,) for name in members), *sets]
    belongs = np.asarray([[name in modules for modules in sets] for name in members], float)
    stacked = np.stack([values[column] for column in columns])

    def ratios(means: Floats) -> Floats:
        above = means[:, 1:] - means[:, :1]
        alone, together = above[:, : len(members)] @ belongs, above[:, len(members) :]
        result: Floats = np.divide(together, alone, out=np.full_like(together, np.nan), where=alone > 0)
        return result

    return ratios(stacked.mean(1)[None])[0], ratios(resampled_means(stacked, generator))


def _median(ratios: Floats, again: Floats, places: Indices, chosen: np.ndarray) -> Interval | None:
    if np.isnan(ratios[chosen]).all():
        return None
    redrawn_ratios = np.take_along_axis(again, places, axis=1)[:, chosen]
    usable = redrawn_ratios[~np.isnan(redrawn_ratios).all(1)]
    return resampled_interval(float(np.nanmedian(ratios[chosen])), np.nanmedian(usable, axis=1))
