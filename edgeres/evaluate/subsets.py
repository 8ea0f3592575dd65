"""What a network computes without each of many sets of modules, the common parts computed once.

Removing a module changes only what comes after it, so sets of modules are walked as a tree: at the first module where
two sets differ, the activation is known, one branch follows its bypass, the other the module itself. All single
lesions of n modules cost about half of n + 1 forward passes. One activation per depth of the tree is alive.

A BatchCache keeps activations at the forks between calls, so that the next call starts where its sets differ from
what has been walked before. Numbers do not depend on it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from itertools import zip_longest

import torch
from torch import Tensor

from edgeres.core.errors import InputError
from edgeres.core.processes import own
from edgeres.evaluate.sums import Batch, Tally
from edgeres.models.network import Network, live_in

Subset = frozenset[str]
Positions = tuple[int, ...]
Runnable = Callable[[Tensor], Tensor]
UnitOf = Callable[[Positions, int], Runnable]
Key = tuple[Positions, int]
_MIB = 1 << 20


@torch.inference_mode()
def walk_subsets(
    network: Network,
    images: Tensor,
    subsets: Collection[Subset],
    stored: BatchCache | None = None,
    unit_of: UnitOf | None = None,
) -> Iterator[tuple[Subset, Tensor]]:
    """Yields (subset, feature map before pooling without its modules), each different set once, as the tree is walked.

    images: float32 (N, C, H, W), normalised. unit_of: what stands for the module at a position, given those dropped
    before it. Raises InputError for a name that is no module of the network.
    """
    paths = _paths(network, subsets)
    walk = SubsetWalk(network, stored or BatchCache(0), unit_of)
    for path, features in walk.below(images, 0, (), list(paths)) if paths else ():
        yield paths[path], features


@torch.inference_mode()
def add_batch(tallies: dict[Subset, Tally], network: Network, batch: Batch, unit_of: UnitOf | None = None) -> None:
    """Counts one batch in the tally of every subset."""
    for subset, features in walk_subsets(network, batch.images, tallies, unit_of=unit_of):
        tallies[subset].add(network.classify(features), batch.labels, batch.reference)


def own_subsets(network: Network, subsets: Collection[Subset]) -> list[Subset]:
    """This process's part of the subsets, neighbours in the tree; those of all processes are in the order of a walk."""
    paths, end = _paths(network, subsets), len(list(network.units())) + 1
    walked = sorted(paths, key=lambda path: (*path, end))
    pairs = (zip_longest(*pair, fillvalue=end) for pair in zip(((end,), *walked), walked, strict=False))
    forks = (next((min(a, b) for a, b in pair if a != b), 0) for pair in pairs)
    return own([paths[path] for path in walked], [end - fork for fork in forks])


def _paths(network: Network, subsets: Collection[Subset]) -> dict[Positions, Subset]:
    positions = {name: i for i, (name, _) in enumerate(network.units(), start=1)}
    if unknown := sorted(frozenset().union(*subsets) - positions.keys()):
        raise InputError(f"cannot leave out {', '.join(unknown)}: not in the network (it has {', '.join(positions)})")
    return {tuple(sorted(positions[name] for name in subset)): subset for subset in subsets}


class SubsetWalk:
    """Depth first over the chain stem, unit 1, ..., unit n; position i is the activation before step i."""

    def __init__(self, network: Network, stored: BatchCache, unit_of: UnitOf | None = None) -> None:
        self._network, self._stored = network, stored
        self._units = [unit for _, unit in network.units()]
        self._unit_of = unit_of or (lambda _, position: self._units[position - 1])

    def at(self, position: int, images: Tensor, gone: Positions) -> Tensor:
        """The activation before step `position` without the modules at `gone`; it is kept, and that at the last gap."""
        x, at = images, 0
        for to, without in ((gone[-1], gone[:-1]), (position, gone)) if gone else ((position, gone),):
            x, at = self._advanced(x, at, to, without), to
            self._stored.offer((without, to), x)
        return x

    def below(
        self, x: Tensor, at: int, gone: Positions, paths: Collection[Positions]
    ) -> Iterator[tuple[Positions, Tensor]]:
        """(path, features) of every path of sorted positions, of which there are some.

        `x`: the activation at `at`; `gone`: what all `paths` drop up to the next fork; depth = drops.
        """
        while True:
            fork = min((path[len(gone)] for path in paths if len(path) > len(gone)), default=0)
            if not fork:
                yield gone, self._network.tail(self._advanced(x, at, len(self._units) + 1, gone))
                return
            dropping = {path for path in paths if len(path) > len(gone) and path[len(gone)] == fork}
            if len(dropping) == len(paths):
                gone = (*gone, fork)
                continue
            x, at = self._advanced(x, at, fork, gone), fork
            self._stored.offer((gone, fork), x)
            yield from self.below(x, at, (*gone, fork), dropping)
            paths = [path for path in paths if path not in dropping]

    def _advanced(self, x: Tensor, at: int, to: int, gone: Positions) -> Tensor:
        """The activation at `to`, from `x` at `at` or from a stored one nearer to it."""
        for position in range(to, at, -1):
            key = (tuple(g for g in gone if g < position), position)
            if (found := self._stored.find(key)) is not None:
                x, at = found, position
                break
        for position in range(at, to):
            if position == 0:
                x = self._network.stem(x)
            else:
                before = tuple(g for g in gone if g < position)
                x = self._units[position - 1].bypass(x) if position in gone else self._unit_of(before, position)(x)
        return x


class BatchCache:
    """Activations of one batch within `limit` bytes; those go first that were not asked for the longest."""

    def __init__(self, limit: int) -> None:
        self.limit, self.size = limit, 0
        self._known: dict[Key, Tensor] = {}

    def find(self, key: Key) -> Tensor | None:
        """The activation at `key` = (positions dropped before, position), if it is here."""
        if key in self._known:
            self._known[key] = self._known.pop(key)  # the last now
        return self._known.get(key)

    def clear(self) -> None:
        """Forgets all; what is asked for again is computed again."""
        self.size = 0
        self._known.clear()

    def offer(self, key: Key, x: Tensor) -> None:
        """Keeps `x`, unless it is larger than all there is room for."""
        if key not in self._known and _bytes_of(x) <= self.limit:
            self._known[key] = x
            self.size += _bytes_of(x)
            while self.size > self.limit:
                self.size -= _bytes_of(self._known.pop(next(iter(self._known))))


def _bytes_of(x: Tensor) -> int:
    return sum(one.numel() * one.element_size() for one in live_in(x))


def caches_for(batches: int, mib: float) -> list[BatchCache]:
    """One for every batch, each with an equal share of `mib` MiB."""
    return [BatchCache(int(mib * _MIB / max(batches, 1))) for _ in range(batches)]
