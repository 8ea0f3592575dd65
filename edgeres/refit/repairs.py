"""Cheap repairs, so that a search can ask what a set of dropped modules costs once its gaps have been made up for.

Of each module right behind a gap the last layer is fitted, on few rows, to the sum the whole network has there (`ridge`
has the maths); all else stays. On ResNet-56 that brings most of what `solve` brings in a fraction of a second a module.
A repair depends only on what is dropped before it, so sets share them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor

from edgeres.core.progress import track
from edgeres.core.spec import ModelSpec
from edgeres.data import Split
from edgeres.evaluate.subsets import Positions, Runnable, SubsetWalk, caches_for
from edgeres.models.network import Network
from edgeres.refit.folded import FoldedModule, Look, drawn, folded_module

_ROWS = 10_000
_GOAL_BYTES = 16 << 20  # of what one module is fitted to
_KEPT_BYTES = 256 << 20  # of repaired layers
_HELD_OUT = 5  # one image in so many
_BATCHES = 5


def repairs_on(images: Split, network: Network, spec: ModelSpec, *, cache_mib: float = 512) -> Repairs:
    """The repairs of a whole `network` in evaluation mode that these `images` make."""
    pieces = images.batches(spec, spec.at_once(max(1, len(images) // _BATCHES)))
    batches = [torch.from_numpy(x).contiguous(memory_format=torch.channels_last) for x, _ in pieces]
    return Repairs(network, batches, cache_mib=cache_mib)


class Repairs:
    """The repaired modules of a whole network in evaluation mode, by what is dropped before them.

    images: float32 (N, C, H, W), a batch each; one in five decides how far weights may move.
    """

    def __init__(self, network: Network, images: Sequence[Tensor], *, cache_mib: float = 512) -> None:
        self._network, self._images = network, images
        self._units = [unit for _, unit in network.units()]
        self._caches = caches_for(len(images), cache_mib)
        self._known: dict[tuple[Positions, int], FoldedModule] = {}
        self._goals = [self._taught(number) for number in range(len(images))]

    @torch.inference_mode()
    def __call__(self, gone: Positions, position: int) -> Runnable:
        """The module at `position`, from 1 on, if those at `gone`, all before it, are dropped."""
        unit, key = self._units[position - 1], (gone, position)
        if position - 1 not in gone or position not in self._goals[0]:
            return unit
        if key not in self._known:
            self._known[key] = module = self._repaired(gone, position)
            while len(self._known) > max(1, _KEPT_BYTES // sum(layer.size_bytes for layer in module.layers)):
                del self._known[next(iter(self._known))]  # the oldest
        return self._known[key]

    def rest(self) -> None:
        """Gives back the memory of activations and repaired layers."""
        self._known.clear()
        for cache in self._caches:
            cache.clear()

    def behind_each(self, names: Collection[str]) -> None:
        """Makes the repairs of single gaps ahead of time, which on large images takes minutes, with a progress bar."""
        inner = enumerate([*self._network.units()][:-1], 1)
        positions = [place for place, (name, unit) in inner if name in names and not unit.dropped]
        for gone in track(positions, "refit behind each module", len(positions)):
            self((gone,), gone + 1)

    def _repaired(self, gone: Positions, position: int) -> FoldedModule:
        module = folded_module(self._units[position - 1])
        number, places = len(module.layers) - 1, range(len(self._images))
        parts = [place for place in places if place % _HELD_OUT], places[::_HELD_OUT]
        learn, held_out = (module.rows(number, *self._looks(part, gone, position)) for part in parts)
        module.layers[-1].take(module.refitted(number, learn, held_out))
        return module

    def _looks(self, places: Sequence[int], gone: Positions, position: int) -> tuple[Iterator[Look], int]:
        """At the batches at `places`, and how many rows they make."""
        walks = ((place, SubsetWalk(self._network, self._caches[place], self)) for place in places)
        looks = (Look(walk.at(position, self._images[n], gone), *self._goals[n][position]) for n, walk in walks)
        return looks, sum(self._goals[place][position][1].shape[1] for place in places)

    @torch.inference_mode()
    def _taught(self, place: int) -> dict[int, tuple[Tensor, Tensor]]:
        """For each module the positions looked at and what the last layer aims at there, of one batch."""
        found, x, n = {}, self._network.stem(self._images[place]), sum(map(len, self._images))
        for position, unit in enumerate(self._units, 1):
            module = None if unit.dropped else folded_module(unit)
            if module is not None and module.layers:
                (*_, goal), _ = module.goals(x)
                rows = min(_ROWS, _GOAL_BYTES // (goal.shape[1] * goal.element_size()))
                positions = drawn(goal, rows // n, place)
                found[position] = positions, module.layers[-1].outputs(goal, positions)
            x = unit(x)
        return found
