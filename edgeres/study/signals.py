"""The gradient at every module of a network, and a network without its batch norms."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from edgeres.models.network import Network

Norms = tuple[tuple[float, float], ...]


class Shift(nn.Module):
    """What is left of a batch norm without the norm: x + b, one b a channel: the bias of the layer it follows."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) to the same shape."""
        return x + self.bias.view(-1, *[1] * (x.ndim - 2))


def without_norm(network: nn.Module) -> None:
    """Puts a Shift in place of every batch norm."""
    for name, child in network.named_children():
        if isinstance(child, (nn.BatchNorm1d, nn.BatchNorm2d)):
            setattr(network, name, Shift(child.num_features))
        else:
            without_norm(child)


def gradient_norms(network: Network, images: Tensor, labels: Tensor) -> Norms:
    """For the stem and each module: the L2 norms of the gradients of its output and of its filters.

    The loss is the mean cross-entropy of `images`, float32 (N, C, H, W), in training mode (batch norm sees the batch);
    the network itself, its statistics and its gradients are left as they are.
    """
    network = copy.deepcopy(network).train().requires_grad_()
    x = network.stem(images)
    outputs, parts = [x], [[p for p in network.parameters() if p.ndim >= 2][:1]]
    for _, unit in network.units():
        x = unit(x)
        outputs.append(x)
        parts.append([p for p in unit.parameters() if p.ndim >= 2])
    loss = nn.functional.cross_entropy(network.classify(network.tail(x)), labels)
    filters = [p for part in parts for p in part]
    found = torch.autograd.grad(loss, [*outputs, *filters])
    of_outputs, of_filters = found[: len(outputs)], iter(found[len(outputs) :])
    return tuple(
        (float(gradient.norm()), _norm([next(of_filters) for _ in part]))
        for gradient, part in zip(of_outputs, parts, strict=True)
    )


class Probe:
    """Takes the gradients of a network in training: called once an epoch, it keeps those of the epochs wanted."""

    def __init__(self, images: Tensor, labels: Tensor, epochs: int) -> None:
        self._images, self._labels = images, labels
        self._wanted, self._epoch = {0, 1, epochs // 2, epochs}, 0
        self.norms: dict[int, Norms] = {}

    def __call__(self, network: nn.Module) -> float:
        """Looks at the network at the end of an epoch (first of all before training); there is no accuracy to log."""
        assert isinstance(network, Network)
        if self._epoch in self._wanted:
            device = next(network.parameters()).device
            self.norms[self._epoch] = gradient_norms(network, self._images.to(device), self._labels.to(device))
        self._epoch += 1
        return math.nan


def _norm(gradients: list[Tensor]) -> float:
    return math.sqrt(sum(float(gradient.norm()) ** 2 for gradient in gradients))
