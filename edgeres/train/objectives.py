"""What a step minimises, and what it does to the network: cross-entropy, distillation, stochastic depth."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeres.core.errors import InputError
from edgeres.core.spec import Preprocess
from edgeres.models.network import Network

Objective = Callable[[Network, Tensor, Tensor], Tensor]


def cross_entropy(label_smoothing: float = 0.0) -> Objective:
    """Mean cross-entropy of logits and labels."""

    def objective(network: Network, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(network(images), labels, label_smoothing=label_smoothing)

    return objective


def distilled(
    teacher: Network,
    *,
    weight: float,
    temperature: float,
    label_smoothing: float = 0.0,
    adapt: Callable[[Tensor], Tensor] = lambda images: images,
) -> Objective:
    """(1 - weight) cross-entropy + weight T^2 KL(teacher || student), both softened by T.

    `adapt` brings images to the teacher's normalisation. Source: Hinton et al. 2015, arXiv 1503.02531.
    """
    teacher = teacher.eval().requires_grad_(False)

    def objective(network: Network, images: Tensor, labels: Tensor) -> Tensor:
        logits = network(images)
        hard = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
        teacher.to(images.device)
        with torch.no_grad():
            goal = teacher(adapt(images))
        return (1 - weight) * hard + weight * soft_divergence(logits, goal, temperature)

    return objective


def soft_divergence(logits: Tensor, goal: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(goal / T) || softmax(logits / T)), mean over images."""
    student = F.log_softmax(logits / temperature, dim=1)
    teacher = F.log_softmax(goal / temperature, dim=1)
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def renormaliser(source: Preprocess, target: Preprocess) -> Callable[[Tensor], Tensor]:
    """The affine map from images normalised by `source` to the same images normalised by `target`."""
    mean, std, new_mean, new_std = (
        torch.tensor(values).view(-1, 1, 1) for values in (source.mean, source.std, target.mean, target.std)
    )
    scale, shift = std / new_std, (mean - new_mean) / new_std
    return lambda images: images * scale.to(images.device) + shift.to(images.device)


def set_survival(network: Network, last: float) -> None:
    """Module l of L is kept with probability 1 - l / L (1 - last) in training.

    Raises InputError for a network without skips. Source: Huang et al. 2016, arXiv 1603.09382, eq. 4.
    """
    from edgeres.models.resnet_net import Residual

    units = [unit for _, unit in network.units() if isinstance(unit, Residual) and unit.skips]
    if not units:
        raise InputError("stochastic depth needs a network with skips; leave --stochastic-depth at 0")
    for index, unit in enumerate(units, 1):
        unit.survival = 1 - index / len(units) * (1 - last)


def decay_groups(network: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Parameters to learn: matrices and filters with weight decay, biases and batch norms without.

    Source: He et al. 2018, arXiv 1812.01187, section 3.1.
    """
    learned = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in learned if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in learned if p.ndim < 2], "weight_decay": 0.0},
    ]
