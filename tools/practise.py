"""PRACTISE's recoverability: how badly a module is missed once adaptors around the gap have learnt to make up for it.

    score(m) = MSE(features without m but with trained adaptors, features)

For comparison with the conditional search (practise_figures.py): every module is judged alone, and the k of the lowest
scores are dropped. Adaptors are linear maps across channels, learned alone and then part of the layers they touch:

    after a layer before the gap     y = A (W x)      merges to  W' = A W
    before a layer behind the gap    y = W (A x)      merges to  W' = W A

A is a 1x1 convolution without bias that begins as the identity (a square matrix for linear layers); as it commutes with
zero padding the merge is exact, and so the product is trained as W' itself. Layers are those of the modules in the
stage that lost one, shortcuts excluded: what comes before that stage is computed once for all of its modules, as are
the whole network's features (images are not augmented).

Source: Wang & Wu 2023, arXiv 2303.15254, sections 3.2 and 3.3, and their code: SGD, rate 0.02, momentum 0.9, batch 64,
1,000 iterations; the stages' first modules are no candidates there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from edgeres.core.errors import InputError
from edgeres.core.progress import track
from edgeres.models.network import Network, Unit
from edgeres.models.weights import fold_batch_norms

ITERATIONS = 1000
_LR, _BATCH = 0.02, 64
_CHUNK = 250  # images at a time where no gradient is taken

Pair = tuple[Tensor, Tensor]
Layer = nn.Conv2d | nn.Linear


def recoverability(
    network: Network,
    images: Tensor,
    candidates: Sequence[str],
    *,
    iterations: int = ITERATIONS,
    seed: int = 0,
) -> dict[str, float]:
    """Score of each candidate, lower is better; `network` is left as it is.

    `images`: float32 (N, C, H, W), normalised. Raises InputError for a candidate the network does not have.
    """
    whole = copy.deepcopy(network)
    fold_batch_norms(whole)
    whole.to(memory_format=torch.channels_last).requires_grad_(False)
    _check(whole, candidates)
    inputs = _StageInputs(whole, images)
    scores = {}
    for name in track(candidates, "practise: recoverability", len(candidates)):
        scores[name] = _remaining_error(whole, name, inputs.of(name), iterations=iterations, seed=seed)
    return scores


def lowest(scores: dict[str, float], count: int) -> tuple[str, ...]:
    """PRACTISE's choice: the `count` candidates of the lowest scores, each judged alone."""
    return tuple(sorted(scores, key=scores.__getitem__)[:count])


def inner_modules(names: Sequence[str]) -> list[str]:
    """`names`, in order of execution, without the first of every stage."""
    stages = [_stage(name) for name in names]
    return [name for name, stage, before in zip(names, stages, ["", *stages], strict=False) if stage == before]


class After(nn.Module):
    """A W: mixes the output channels of weights (O, I, ...)."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.eye(weight.shape[0], device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        """The merged weight."""
        return (self.matrix @ weight.flatten(1)).view(weight.shape)


class Before(nn.Module):
    """W A: mixes the input channels of weights (O, I, ...)."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.eye(weight.shape[1], device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        """The merged weight."""
        return torch.einsum("oi...,ij->oj...", weight, self.matrix)


def add_adaptors(network: Network, names: Iterable[str], dropped: Collection[str]) -> list[nn.Parameter]:
    """Puts adaptors around every gap and returns their matrices, the only parameters that still learn.

    `names`: all original modules in order of execution; `dropped`: those that are to be made up for. A layer between
    two gaps gets both kinds. The list is empty if no stage with a gap has layers left.
    """
    network.requires_grad_(False)
    units, order = dict(network.units()), list(names)
    matrices: list[nn.Parameter] = []
    for position, name in enumerate(order):
        if name not in units or name in dropped:
            continue
        gaps = [order.index(gap) for gap in dropped if _stage(gap) == _stage(name)]
        for layer in layers_of(units[name]):
            if any(gap > position for gap in gaps):
                matrices.append(_adapted(layer, After(layer.weight)))
            if any(gap < position for gap in gaps):
                matrices.append(_adapted(layer, Before(layer.weight)))
    return matrices


def layers_of(unit: Unit) -> list[Layer]:
    """The unit's ungrouped convolutions and linear layers, shortcut excluded."""
    return [
        module
        for name, module in unit.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
        and not name.startswith("downsample")
        and getattr(module, "groups", 1) == 1
    ]


def train_adaptors(
    loss: Callable[[Tensor], Tensor], batches: Iterable[Tensor], matrices: list[nn.Parameter], *, lr: float
) -> None:
    """One step of SGD (momentum 0.9) on `matrices` for each of the batches."""
    optimizer = torch.optim.SGD(matrices, lr=lr, momentum=0.9)
    for batch in batches:
        optimizer.zero_grad()
        loss(batch).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def _adapted(layer: Layer, adaptor: After | Before) -> nn.Parameter:
    parametrize.register_parametrization(layer, "weight", adaptor)
    return adaptor.matrix


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


def _check(network: Network, candidates: Sequence[str]) -> None:
    there = {name for name, unit in network.units() if not unit.dropped}
    for name in candidates:
        if name not in there:
            raise InputError(f"no module {name!r} to judge: it is not in the network, or dropped already")


def _stage(name: str) -> str:
    return name.partition(".")[0]
