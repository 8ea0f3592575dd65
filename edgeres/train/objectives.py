"""What a step minimises, and which parameters it moves."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from edgeres.models.network import Network

Objective = Callable[[Network, Tensor, Tensor], Tensor]


def cross_entropy(network: Network, images: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of logits and labels."""
    return F.cross_entropy(network(images), labels)


def soft_divergence(logits: Tensor, goal: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(goal / T) || softmax(logits / T)), mean over images."""
    student = F.log_softmax(logits / temperature, dim=1)
    teacher = F.log_softmax(goal / temperature, dim=1)
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def decay_groups(network: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Parameters to learn: matrices and filters with weight decay, biases and batch norms without.

    Source: He et al. 2018, arXiv 1812.01187, section 3.1.
    """
    learned = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in learned if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in learned if p.ndim < 2], "weight_decay": 0.0},
    ]
