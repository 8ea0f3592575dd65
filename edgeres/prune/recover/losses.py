"""What a pruned network learns from and what it need not learn, how it is judged, batch norms estimated anew.

    mimic     MSE(f_s, f_t) / mean(f_t^2)              f: the feature map before global pooling
    distill   T^2 KL(p_t^T || p_s^T)                   p^T: softmax of the logits over T; of an embedding 1 - cosine,
              of other outputs MSE(s, t) / mean(t^2), of several the mean
    finetune  cross-entropy of p_s and the label       the only one that reads labels

s is the pruned network, t the one before pruning; the loss is the sum of the chosen terms. mimic is the feature
mimicking of Wang & Wu 2023 (PRACTISE, arXiv 2303.15254), divided by the teacher's own power so that one weight fits all
networks; where several outputs leave no single map behind the modules f are the outputs, as distill has them. distill
is Hinton et al. 2015, arXiv 1503.02531.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import takewhile
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeres.core.distances import kept
from edgeres.core.spec import ModelSpec, Task
from edgeres.data import Split
from edgeres.evaluate.distance import KL, distance_for
from edgeres.models.network import Network
from edgeres.models.weights import Weights
from edgeres.prune.config import RecoverConfig
from edgeres.train.objectives import Objective, apart, relative_error

BATCH = 250  # images at a time where no gradient is taken


class Outputs(NamedTuple):
    """Of one batch: the features before pooling, the logits."""

    features: Tensor
    logits: Tensor


def through(network: Network, x: Tensor, shared: Collection[str], *, behind: bool) -> Tensor:
    """`x` after the leading modules that are `shared`, or from what those give after all `behind` them."""
    for name, unit in network.units():
        if (name not in shared) == behind:
            x = unit(x)
    return x


def outputs_from(network: Network, x: Tensor, shared: Collection[str] = ()) -> Outputs:
    """What `network` makes of `x`, which the leading modules `shared` give, the stem if there are none."""
    features = network.tail(through(network, x, shared, behind=True))
    return Outputs(features, network.classify(features))


def feature_error(found: Outputs, goal: Outputs, sizes: Sequence[int]) -> Tensor:
    """The relative error of the features, which may be the outputs themselves."""
    return relative_error(found.features, goal.features, sizes if found.features is found.logits else ())


def objective_for(
    teacher: Network | None,
    config: RecoverConfig,
    *,
    shared: Collection[str] = (),
    task: Task = "classes",
    sizes: Sequence[int] = (),
) -> Objective:
    """The loss of (student, images, labels) that `config.method` asks for; only finetune can do without a teacher.

    The leading modules `shared` are taken from the teacher, without gradient, for both.
    """
    imitates = not {"mimic", "distill"}.isdisjoint(config.method)
    if teacher is not None:
        teacher = teacher.eval().requires_grad_(False)

    def objective(student: Network, images: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            x = goal = None
            if teacher is not None and (shared or imitates):
                x = through(teacher.to(images.device), teacher.stem(images), shared, behind=False)
                goal = outputs_from(teacher, x, shared) if imitates else None
        found = outputs_from(student, x if x is not None and shared else student.stem(images), shared)
        loss = images.new_zeros(())
        if goal is not None and "mimic" in config.method:
            loss = loss + feature_error(found, goal, sizes)
        if goal is not None and "distill" in config.method:
            loss = loss + apart(found.logits, goal.logits, task, config.temperature, sizes=sizes)
        if "finetune" in config.method:
            loss = loss + F.cross_entropy(found.logits, labels)
        return loss

    return objective


class HeldOutScore:
    """Held-out images with what the teacher makes of them; smaller scores are better.

    With finetune among the `methods` cross-entropy; otherwise KL(p_t || p_s) in nats, or what else tells the teacher's
    outputs apart (`evaluate.distance`), plus the relative error of the features with mimic.
    """

    def __init__(self, images: Split, spec: ModelSpec, teacher: Network | None, methods: Collection[str]) -> None:
        self._by_labels, self._by_features = "finetune" in methods or teacher is None, "mimic" in methods
        self._n, self._task, self._sizes = len(images), spec.task, spec.sizes
        self._batches: list[tuple[Tensor, Tensor, Outputs | None]] = []
        for pixels, labels in images.batches(spec, spec.at_once(BATCH)):
            x = torch.from_numpy(pixels).to(memory_format=torch.channels_last)
            goal = None if teacher is None or self._by_labels else self._outputs(teacher, x)
            self._batches.append((x, torch.from_numpy(labels), goal))
        goals = [goal.logits for _, _, goal in self._batches if goal is not None]
        self._distance = distance_for(spec.task, goals, spec.sizes) if goals else KL

    @property
    def measure(self) -> str:
        """What `__call__` returns, in words."""
        if self._by_labels:
            return "cross-entropy"
        name = self._distance.name
        return f"{name} + relative feature error" if self._by_features else name

    def __call__(self, network: Network) -> float:
        """The score of `network`, which is put into evaluation mode."""
        scores = (
            len(images) * self._score(self._outputs(network, images), labels, goal)
            for images, labels, goal in self._batches
        )
        return sum(scores) / self._n

    @torch.no_grad()
    def _outputs(self, network: Network, images: Tensor) -> Outputs:
        images = images.to(next(network.eval().parameters()).device)
        found = outputs_from(network, network.stem(images))
        logits = kept(found.logits, self._sizes)
        if logits is found.logits:
            return found
        return Outputs(logits if found.features is found.logits else kept(found.features), logits)

    def _score(self, found: Outputs, labels: Tensor, goal: Outputs | None) -> float:
        device = found.logits.device
        if goal is None:
            return float(F.cross_entropy(found.logits, labels.to(device)))
        theirs = goal.logits.to(device)
        if self._distance.measure == "centred":
            divergence = float(self._distance.each(found.logits, theirs).mean())
        else:
            divergence = float(apart(found.logits, theirs, self._task, sizes=self._sizes))
        if not self._by_features:
            return divergence
        return divergence + float(feature_error(found, Outputs(goal.features.to(device), theirs), self._sizes))


def shared_modules(own: Weights, theirs: Weights, names: Sequence[str], stem: Iterable[str]) -> list[str]:
    """Those of the leading original modules `names` that are still the teacher's: of the same weights.

    Their input is the same in both networks too, so it is computed once for both and need not learn. None if the stem
    differs, or if nothing is left behind them that could learn: then all may. Measured on ResNet-56 with layer1.5, 1.8,
    2.7 and 2.8 dropped, 2,000 images of CIFAR-10 saved as JPEG, 80 s of one core, rate 0.01, one seed: KL to the
    teacher on 2,000 other train images fell from 0.113 to 0.034, against 0.040 if all of the network learns.
    """

    def is_same(name: str) -> bool:
        mine, yours = ({key for key in weights if key.startswith(f"{name}.")} for weights in (own, theirs))
        return mine == yours and all(torch.equal(own[key], theirs[key]) for key in mine)

    same = list(takewhile(is_same, names))
    can_learn = any(key.startswith(f"{name}.") for name in names[len(same) :] for key in own)
    return same if can_learn and all(map(is_same, stem)) else []


def modules_called(network: Network, run: Callable[[], object]) -> set[str]:
    """Names of the modules with a state that `run` calls; the network is put into evaluation mode."""
    called: set[str] = set()
    hooks = [
        module.register_forward_hook(lambda *_, name=name: called.add(name))
        for name, module in network.eval().named_modules()
        if name and not list(module.children()) and module.state_dict()
    ]
    with torch.no_grad():
        run()
    for hook in hooks:
        hook.remove()
    return called


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


def even_batches(split: Split, spec: ModelSpec) -> Iterator[Tensor]:
    """All images of `split` in batches of about the same size, so that none weighs more in an average."""
    size = -(-len(split) // -(-len(split) // spec.at_once(BATCH)))
    for images, _ in split.batches(spec, size):
        yield torch.from_numpy(images).to(memory_format=torch.channels_last)
