"""What a pruned network learns from, how it is judged, and batch norms estimated anew.

    mimic     MSE(f_s, f_t) / mean(f_t^2)              f: the feature map before global pooling
    stages    the same at the end of every stage but the last, mean over stages
    distill   T^2 KL(p_t^T || p_s^T)                   p^T: softmax of the logits over T
    finetune  cross-entropy of p_s and the label       the only one that reads labels

s is the pruned network, t the one before pruning; the loss is the weighted sum of the chosen terms. mimic is the
feature mimicking of Wang & Wu 2023 (PRACTISE, arXiv 2303.15254), divided by the teacher's own power so that one weight
fits all networks; distill is Hinton et al. 2015, arXiv 1503.02531.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeres.core.spec import ModelSpec
from edgeres.data import Split
from edgeres.models import modules_of
from edgeres.models.network import Network
from edgeres.train.objectives import Objective, soft_divergence

if TYPE_CHECKING:
    from edgeres.prune.config import RecoverConfig

_BATCH = 250  # images at a time where no gradient is taken


@dataclass(frozen=True)
class Outputs:
    """Of one batch: the ends of all stages but the last, the features before pooling, the logits."""

    ends: list[Tensor]
    features: Tensor
    logits: Tensor


def stage_ends(spec: ModelSpec) -> dict[str, bool]:
    """Original module name -> whether it is the last of a stage that another one follows; in order of execution."""
    names = [info.name for info in modules_of(spec)]
    stages = [name.partition(".")[0] for name in names]
    following = [*stages[1:], stages[-1]]
    return {name: stage != after for name, stage, after in zip(names, stages, following, strict=True)}


def outputs_of(network: Network, images: Tensor, ends: dict[str, bool]) -> Outputs:
    """One forward pass; `ends` is `stage_ends` of the network's spec, dropped modules included.

    The end of a stage is what flows after its last original module, whether that one is still there or not.
    """
    return outputs_from(network, network.stem(images), ends)


def outputs_from(network: Network, x: Tensor, ends: dict[str, bool]) -> Outputs:
    """The same from `x`, the input of the first module in `ends`."""
    units, at_ends = dict(network.units()), []
    for name, is_end in ends.items():
        if name in units:
            x = units[name](x)
        if is_end:
            at_ends.append(x)
    features = network.tail(x)
    return Outputs(at_ends, features, network.classify(features))


def input_of(network: Network, images: Tensor, names: Iterable[str]) -> Tensor:
    """What comes out of the leading modules `names`."""
    units, x = dict(network.units()), network.stem(images)
    for name in names:
        if name in units:
            x = units[name](x)
    return x


def relative_error(found: Tensor, goal: Tensor) -> Tensor:
    """MSE(found, goal) / mean(goal^2)."""
    return (found - goal).square().mean() / goal.square().mean()


def objective_for(teacher: Network | None, spec: ModelSpec, config: RecoverConfig, *, shared: int = 0) -> Objective:
    """The loss of (student, images, labels) that `config.method` asks for; only finetune can do without a teacher.

    The first `shared` original modules are taken from the teacher, without gradient, for both.
    """
    methods, every_end = config.method, list(stage_ends(spec).items())
    leading, ends = [name for name, _ in every_end[:shared]], dict(every_end[shared:])
    imitates = not {"mimic", "distill"}.isdisjoint(methods)
    if teacher is not None:
        teacher = teacher.eval().requires_grad_(False)

    def objective(student: Network, images: Tensor, labels: Tensor) -> Tensor:
        loss = images.new_zeros(())
        if teacher is not None:
            teacher.to(images.device)
        with torch.no_grad():
            x = input_of(teacher, images, leading) if teacher is not None and shared else None
            goal = _goal(teacher, images, x, ends) if teacher is not None and imitates else None
        found = outputs_from(student, student.stem(images) if x is None else x, ends)
        if goal is not None:
            loss = loss + _imitation(found, goal, config, stages=sum(is_end for _, is_end in every_end))
        if "finetune" in methods:
            loss = loss + config.finetune * F.cross_entropy(found.logits, labels)
        return loss

    return objective


def _goal(teacher: Network, images: Tensor, x: Tensor | None, ends: dict[str, bool]) -> Outputs:
    return outputs_from(teacher, teacher.stem(images) if x is None else x, ends)


def _imitation(found: Outputs, goal: Outputs, config: RecoverConfig, *, stages: int) -> Tensor:
    """`stages`: over how many ends the mean goes; those that are shared have no error."""
    loss = found.features.new_zeros(())
    if "mimic" in config.method:
        loss = loss + config.mimic * relative_error(found.features, goal.features)
    if "distill" in config.method:
        loss = loss + config.distill * soft_divergence(found.logits, goal.logits, config.temperature)
    if config.stages and goal.ends:
        errors = [relative_error(a, b) for a, b in zip(found.ends, goal.ends, strict=True)]
        loss = loss + config.stages * torch.stack(errors).sum() / stages
    return loss


class HeldOutScore:
    """Held-out images with what the teacher makes of them; smaller scores are better.

    With finetune among the `methods` cross-entropy; otherwise KL(p_t || p_s) in nats, plus the relative error of the
    features with mimic.
    """

    def __init__(self, split: Split, spec: ModelSpec, teacher: Network | None, methods: Collection[str]) -> None:
        self._by_labels, self._by_features = "finetune" in methods, "mimic" in methods
        self._ends = stage_ends(spec)
        self._batches: list[tuple[Tensor, Tensor, Outputs | None]] = []
        for images, labels in split.batches(spec, _BATCH):
            x = torch.from_numpy(images).to(memory_format=torch.channels_last)
            self._batches.append((x, torch.from_numpy(labels), self._goal(teacher, x)))
        self._n = len(split)

    @property
    def measure(self) -> str:
        """What `__call__` returns, in words."""
        if self._by_labels:
            return "cross-entropy"
        return "KL + relative feature error" if self._by_features else "KL"

    @torch.no_grad()
    def __call__(self, network: Network) -> float:
        """The score of `network`, which is put into evaluation mode."""
        network.eval()
        device = next(network.parameters()).device
        total = 0.0
        for images, labels, goal in self._batches:
            found = outputs_of(network, images.to(device), self._ends)
            total += len(images) * self._score(found, labels.to(device), goal)
        return total / self._n

    def _goal(self, teacher: Network | None, images: Tensor) -> Outputs | None:
        if self._by_labels or teacher is None:
            return None
        device = next(teacher.parameters()).device
        with torch.no_grad():
            return outputs_of(teacher.eval(), images.to(device), self._ends)

    def _score(self, found: Outputs, labels: Tensor, goal: Outputs | None) -> float:
        if goal is None:
            return float(F.cross_entropy(found.logits, labels))
        device = found.logits.device
        divergence = float(soft_divergence(found.logits, goal.logits.to(device), 1.0))
        if not self._by_features:
            return divergence
        return divergence + float(relative_error(found.features, goal.features.to(device)))


@torch.no_grad()
def reestimate_batch_norms(network: Network, batches: Iterable[Tensor], *, keep: Collection[str] = ()) -> None:
    """Running means and variances become the averages over `batches`, images float32 (N, C, H, W); nothing else moves.

    All those layers see the batch's own statistics meanwhile, as in training; modules called `keep` are left out.
    Source: Wu & Johnson 2021, arXiv 2105.07576, section 3 ("precise" batch norm).
    """
    norms = [
        module
        for name, module in network.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        and not any(name == kept or name.startswith(f"{kept}.") for kept in keep)
    ]
    momenta = [norm.momentum for norm in norms]
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over all batches
        norm.train()
    for images in batches:
        network.features(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def even_batches(split: Split, spec: ModelSpec, *, most: int = _BATCH) -> Iterator[Tensor]:
    """All images of `split` in batches of about the same size, so that none weighs more in an average."""
    size = -(-len(split) // -(-len(split) // most))
    for images, _ in split.batches(spec, size):
        yield torch.from_numpy(images).to(memory_format=torch.channels_last)
