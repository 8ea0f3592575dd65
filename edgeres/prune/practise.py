"""PRACTISE's recoverability: how badly a module is missed once adaptors around the gap have learnt to make up for it.

    score(m) = MSE(features without m but with trained adaptors, features) / share of latency m takes

For comparison with the conditional search: every module is judged alone, and the k of the lowest scores are dropped.
Only layers of the module's stage are adapted, so what comes before that stage is computed once for all of its modules,
as are the whole network's features (images are not augmented).

Source: Wang & Wu 2023, arXiv 2303.15254, sections 3.2 and 3.3, and their code: SGD, rate 0.02, momentum 0.9, batch 64,
1,000 iterations; the stages' first modules are no candidates there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from edgeres.core.errors import InputError
from edgeres.core.progress import track
from edgeres.models.fold import fold_batch_norms
from edgeres.models.network import Network
from edgeres.prune.adaptors import add_adaptors, train_adaptors

ITERATIONS = 1000
_LR, _BATCH = 0.02, 64
_CHUNK = 250  # images at a time where no gradient is taken

Pair = tuple[Tensor, Tensor]


def recoverability(
    network: Network,
    images: Tensor,
    candidates: Sequence[str],
    *,
    saved: Mapping[str, float] | None = None,
    iterations: int = ITERATIONS,
    seed: int = 0,
) -> dict[str, float]:
    """Score of each candidate, lower is better; `network` is left as it is.

    `images`: float32 (N, C, H, W), normalised. `saved`: share of the whole latency each candidate takes; None for the
    remaining error alone.

    Raises InputError for a candidate the network does not have, or one that saves nothing.
    """
    whole = copy.deepcopy(network)
    fold_batch_norms(whole)
    whole.to(memory_format=torch.channels_last).requires_grad_(False)
    _check(whole, candidates, saved)
    inputs = _StageInputs(whole, images)
    scores = {}
    for name in track(candidates, "practise: recoverability", len(candidates)):
        error = _remaining_error(whole, name, inputs.of(name), iterations=iterations, seed=seed)
        scores[name] = error / (saved[name] if saved is not None else 1.0)
    return scores


def lowest(scores: Mapping[str, float], count: int) -> tuple[str, ...]:
    """PRACTISE's choice: the `count` candidates of the lowest scores, each judged alone."""
    return tuple(sorted(scores, key=scores.__getitem__)[:count])


def inner_modules(names: Sequence[str]) -> list[str]:
    """`names`, in order of execution, without the first of every stage."""
    stages = [_stage(name) for name in names]
    return [name for name, stage, before in zip(names, stages, ["", *stages], strict=False) if stage == before]


class _StageInputs:
    """What enters a module's stage, and the whole network's features; the last stage asked for is kept."""

    def __init__(self, network: Network, images: Tensor) -> None:
        self._network, self._images = network, images
        self._features = _in_chunks(network.features, images)
        self._stage, self._inputs = "", images

    def of(self, name: str) -> Pair:
        """(input of the stage of `name`, features before pooling), for all images."""
        if _stage(name) != self._stage:
            self._stage = _stage(name)
            self._inputs = _in_chunks(self._before_stage, self._images)
        return self._inputs, self._features

    def _before_stage(self, x: Tensor) -> Tensor:
        x = self._network.stem(x)
        for name, unit in self._network.units():
            if _stage(name) == self._stage:
                break
            x = unit(x)
        return x


def _remaining_error(whole: Network, gap: str, pair: Pair, *, iterations: int, seed: int) -> float:
    """MSE of the features over all images without `gap`, its adaptors trained."""
    student = copy.deepcopy(whole)
    names = [name for name, _ in student.units()]
    first = next(index for index, name in enumerate(names) if _stage(name) == _stage(gap))

    def features(x: Tensor) -> Tensor:
        for name, unit in student.units()[first:]:
            x = unit.bypass(x) if name == gap else unit(x)
        return student.tail(x)

    inputs, goal = pair
    matrices = add_adaptors(student, names, [gap])
    if matrices:
        batches = _batches(len(inputs), iterations, seed)
        train_adaptors(lambda rows: _mse(features(inputs[rows]), goal[rows]), batches, matrices, lr=_LR)
    with torch.no_grad():
        errors = [_mse(features(a), b).item() * len(a) for a, b in zip(_parts(inputs), _parts(goal), strict=True)]
    return sum(errors) / len(inputs)


def _batches(n: int, iterations: int, seed: int) -> Iterator[Tensor]:
    """Rows of each step: passes in random order, the last incomplete batch of a pass left out."""
    generator, size = torch.Generator().manual_seed(seed), min(_BATCH, n)
    done = 0
    while done < iterations:
        for rows in _parts(torch.randperm(n, generator=generator)[: n // size * size], size)[: iterations - done]:
            yield rows
            done += 1


def _in_chunks(function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([function(part.contiguous(memory_format=torch.channels_last)) for part in _parts(images)])


def _parts(tensor: Tensor, size: int = _CHUNK) -> tuple[Tensor, ...]:
    return torch.split(tensor, size)


def _mse(found: Tensor, goal: Tensor) -> Tensor:
    return (found - goal).square().mean()


def _check(network: Network, candidates: Sequence[str], saved: Mapping[str, float] | None) -> None:
    there = {name for name, unit in network.units() if not unit.dropped}
    for name in candidates:
        if name not in there:
            raise InputError(f"no module {name!r} to judge: it is not in the network, or dropped already")
        if saved is not None and saved.get(name, 0) <= 0:
            raise InputError(f"{name} saves {saved.get(name, 0):g} of the latency: its recoverability has no value")


def _stage(name: str) -> str:
    return name.partition(".")[0]
