"""Gradients along single paths through a residual network, and the sum over all paths of one length.

Every module is y = f(h(x) + F(x)), so a path from the images to the loss chooses h or F at each of n modules; its
length is how often it takes F. All paths see the activations of the whole network; they differ on the way back:

    g(x) = h'(x)^T f'(z)^T g(y)   or   F'(x)^T f'(z)^T g(y)

The 2^n gradients sum to the network's. The sum over all paths of one length needs no enumeration:

    G_k(x) = h'(x)^T f'(z)^T G_k(y) + F'(x)^T f'(z)^T G_(k-1)(y)

Source: Veit, Wilber & Belongie 2016, arXiv 1605.06431, section 4.3 (single paths); the recursion is ours.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeres.models.network import Network
from edgeres.models.own_networks import Residual


@dataclass(frozen=True)
class Passage:
    """A passage of the network at one batch: `out` computed from the leaf `at`."""

    at: Tensor
    out: Tensor

    def back(self, gradient: Tensor) -> Tensor:
        """Gradient at `at` from the one at `out`."""
        if self.out is self.at:
            return gradient
        (result,) = torch.autograd.grad(self.out, self.at, gradient, retain_graph=True)
        return result


@dataclass(frozen=True)
class Module:
    """h, F and f of one module; `branch` is None where F has been dropped."""

    shortcut: Passage
    branch: Passage | None
    after: Passage


class PathGradients:
    """The gradients of one batch: images float32 (N, C, H, W), labels (N,); evaluation mode, loss summed over images.

    Raises TypeError for a network that has no shortcuts.
    """

    def __init__(self, network: Network, images: Tensor, labels: Tensor) -> None:
        x = _leaf(images)
        self._stem = Passage(x, network.stem(x))
        self._modules: list[Module] = []
        y = self._stem.out
        for name, unit in network.units():
            if not isinstance(unit, Residual) or not unit.skips:
                raise TypeError(f"{name} has no shortcut")
            self._modules.append(_module(unit, y))
            y = self._modules[-1].after.out
        x = _leaf(y)
        loss = F.cross_entropy(network.classify(network.tail(x)), labels, reduction="sum")
        self._head: Tensor = torch.autograd.grad(loss, x)[0]
        self.modules = sum(module.branch is not None for module in self._modules)

    def along(self, path: Collection[int]) -> Tensor:
        """Gradient at the images (N, C, H, W) of the path that takes F at the modules numbered in `path`."""
        gradient, number = self._head, self.modules
        for module in reversed(self._modules):
            gradient = module.after.back(gradient)
            number -= module.branch is not None
            takes_branch = module.branch is not None and number in path
            gradient = module.branch.back(gradient) if takes_branch else module.shortcut.back(gradient)  # type: ignore[union-attr]
        return self._stem.back(gradient)

    def by_length(self) -> list[Tensor]:
        """Gradient at the images, summed over all paths of length 0, 1, ..., n."""
        sums = [self._head]
        for module in reversed(self._modules):
            sums = [module.after.back(gradient) for gradient in sums]
            straight = [module.shortcut.back(gradient) for gradient in sums]
            if module.branch is None:
                sums = straight
                continue
            turned = [module.branch.back(gradient) for gradient in sums]
            middle = [a + b for a, b in zip(straight[1:], turned[:-1], strict=True)]
            sums = [straight[0], *middle, turned[-1]]
        return [self._stem.back(gradient) for gradient in sums]


def _module(unit: Residual, x: Tensor) -> Module:
    at_shortcut, at_branch = _leaf(x), _leaf(x)
    shortcut = Passage(at_shortcut, unit.shortcut(at_shortcut))
    branch = None if unit.dropped else Passage(at_branch, unit.branch(at_branch))
    z = _leaf(shortcut.out if branch is None else shortcut.out + branch.out)
    return Module(shortcut, branch, Passage(z, unit.after(z)))


def _leaf(x: Tensor) -> Tensor:
    return x.detach().requires_grad_()
