"""What a step minimises and what moves the parameters.

SGD, and for a network that is good already steps of the same share of each matrix's size:

    B <- m B + (1 - m) G        O = U V^T of  m B + (1 - m) G = U S V^T        W <- W - 0.2 lr |W| O / |O|

G: the gradient of a matrix, or of filters as rows; O, all its directions alike, by five Newton-Schulz rounds, nearly.
Where layers were fitted one by one, what is left to gain lies along directions whose gradients are small; plain steps
are ruled by the large.

Source: Jordan et al. 2024, "Muon", https://kellerjordan.github.io/posts/muon; 0.2, which makes rates mean what they do
for other optimisers: Liu et al. 2025, arXiv 2502.16982, section 2.2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeres.core.distances import split
from edgeres.core.spec import Task
from edgeres.models.network import Network
from edgeres.train.config import LoopConfig

Objective = Callable[[Network, Tensor, Tensor], Tensor]
_ROUNDS, _POLYNOMIAL = 5, (3.4445, -4.7750, 2.0315)
_SHARE = 0.2
_SMALLEST = 1e-12  # of a norm: gradients that are zero


def cross_entropy(network: Network, images: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of logits and labels."""
    return F.cross_entropy(network(images), labels)


def soft_divergence(logits: Tensor, goal: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(goal / T) || softmax(logits / T)), mean over images."""
    student = F.log_softmax(logits / temperature, dim=1)
    teacher = F.log_softmax(goal / temperature, dim=1)
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def relative_error(found: Tensor, goal: Tensor, sizes: Sequence[int] = ()) -> Tensor:
    """MSE(found, goal) / mean(goal^2), of several outputs the mean."""
    pairs = zip(split(found, sizes), split(goal, sizes), strict=True)
    errors = [(one - wanted).square().mean() / wanted.square().mean() for one, wanted in pairs]
    return sum(errors[1:], errors[0]) / len(errors)


def apart(found: Tensor, goal: Tensor, task: Task, temperature: float = 1.0, *, sizes: Sequence[int] = ()) -> Tensor:
    """How far outputs are from the teacher's, by what they are for: the mean of `core.distances`, differentiable."""
    if task == "classes":
        return soft_divergence(found, goal, temperature)
    if task == "embedding":
        return (1 - F.cosine_similarity(found, goal, dim=1)).mean()
    return relative_error(found, goal, sizes)


def decay_groups(network: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Parameters to learn: matrices and filters with weight decay, biases and batch norms without.

    Source: He et al. 2018, arXiv 1812.01187, section 3.1.
    """
    learned = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in learned if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in learned if p.ndim < 2], "weight_decay": 0.0},
    ]


def optimizer_for(network: nn.Module, config: LoopConfig, *, refines: bool) -> torch.optim.Optimizer:
    """What moves the parameters that learn; puts `network` into the mode it learns in.

    One that is refined stays in evaluation mode: it was fitted with the statistics its batch norms have, and those of a
    batch would undo that.
    """
    network.train(not refines)
    momentum, decay = config.momentum, config.weight_decay
    if refines:
        learned = [one for one in network.parameters() if one.requires_grad]
        return Orthogonal(learned, lr=config.lr, momentum=momentum, weight_decay=decay)
    return torch.optim.SGD(decay_groups(network, decay), lr=config.lr, momentum=momentum, nesterov=momentum > 0)


class Orthogonal(torch.optim.Optimizer):
    """Of matrices and filters alone."""

    def __init__(self, parameters: Iterable[nn.Parameter], *, lr: float, momentum: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Moves what has a gradient; there is no `closure` to call."""
        assert closure is None
        for group in self.param_groups:
            for weight in (one for one in group["params"] if one.grad is not None):
                if not self.state[weight]:
                    self.state[weight]["average"] = torch.zeros_like(weight)
                average = self.state[weight]["average"]
                average.lerp_(weight.grad, 1 - group["momentum"])
                direction = orthogonal(weight.grad.lerp(average, group["momentum"]).flatten(1)).view_as(weight)
                share = _SHARE * group["lr"] * weight.norm() / direction.norm().clamp_min(_SMALLEST)
                weight.mul_(1 - group["lr"] * group["weight_decay"]).sub_(share * direction)


def orthogonal(matrix: Tensor) -> Tensor:
    """U V^T of U S V^T, singular values within about 0.3 of 1; of zeros, zeros."""
    is_tall = matrix.shape[0] > matrix.shape[1]
    x: Tensor = matrix.mT if is_tall else matrix
    x, (a, b, c) = x / x.norm().clamp_min(_SMALLEST), _POLYNOMIAL
    for _ in range(_ROUNDS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if is_tall else x
