"""Adaptors: linear maps across channels beside a gap, learned alone and then merged into the layers they touch.

    after a layer before the gap     y = A (W x)      merges to  W' = A W
    before a layer behind the gap    y = W (A x)      merges to  W' = W A

A is a 1x1 convolution without bias that begins as the identity (a square matrix for linear layers); as it commutes with
zero padding the merge is exact, and so the product is trained as W' itself: neither keys nor shapes nor the cost of
a forward pass change. Layers are those of the modules in the stage that lost one, shortcuts excluded.

Source: Wang & Wu 2023, arXiv 2303.15254, section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from edgeres.models.network import Network, Unit

Layer = nn.Conv2d | nn.Linear


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


def merge_adaptors(network: Network) -> None:
    """Replaces every adapted weight by the product, in place; keys and shapes are the original ones again."""
    for module in list(network.modules()):
        if isinstance(module, (nn.Conv2d, nn.Linear)) and parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
    network.requires_grad_(True)


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


def _stage(name: str) -> str:
    return name.partition(".")[0]
