"""What `edgeres prune --recover solve,mimic` does for a network with gaps, done for one with fewer channels.

Layer by layer it is refitted to what the whole network gives in the channels that are left, on what it feeds itself by
then, the last layer of a module to the module's output; a module stays as it was if on held-out images that is no
nearer. Then its features learn to be the whole network's: batch norms as they are, steps of the same share of each
filter's size, the weights kept that do best on held-out images. Nothing reads labels.

Which channels are left is told by their batch norms, which pruning copies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from edgeres.core.spec import ModelSpec
from edgeres.data import Split
from edgeres.models.network import Network
from edgeres.prune.config import USUAL_EPOCHS, RecoverConfig
from edgeres.prune.recover.budget import LOOKS
from edgeres.prune.recover.losses import outputs_from
from edgeres.refit.folded import FoldedModule, Look, drawn, folded_module
from edgeres.train.batches import batches_for
from edgeres.train.loop import Training, fit
from edgeres.train.objectives import relative_error, soft_divergence
from edgeres.train.schedule import Plan

_ROWS, _BATCH = 40_000, 50  # of a layer, and images at a time, as in edgeres.prune.recover.solve
_HELD_OUT = 0.1  # as in edgeres.prune.recover.stage
_WARMUP_SHARE = 0.1  # of the steps, at most, as there
Kept = dict[str, Tensor]


@dataclass
class _Batch:
    """What the next module gets in both networks, and what the thin one's output is to be."""

    theirs: Tensor
    mine: Tensor
    seed: int
    is_held_out: bool
    goal: Tensor = field(default_factory=lambda: torch.empty(0))


@dataclass(frozen=True)
class Lesson:
    """`whole` teaches, its batch norms folded; `kept`: by the name of a batch norm the channels that are left."""

    whole: Network
    kept: Kept
    spec: ModelSpec
    learn: Split
    held_out: Split


def lesson_of(thin: Network, whole: Network, folded: Network, spec: ModelSpec, images: Split) -> Lesson:
    """What `thin`, pruned from `whole`, is to learn; `folded` is `whole` for inference."""
    norms = dict(whole.named_modules())
    kept = {
        name: channels_left(norm, norms[name])
        for name, norm in thin.named_modules()
        if isinstance(norm, nn.BatchNorm2d)
    }
    n = round(_HELD_OUT * len(images))
    return Lesson(folded, kept, spec, images.subset(range(n, len(images))), images.subset(range(n)))


def channels_left(thin: nn.Module, whole: nn.Module) -> Tensor:
    """Which of the channels of a batch norm are those of the thin one, in its order."""
    mine, theirs = (torch.stack([one for one in norm.state_dict().values() if one.ndim], 1) for norm in (thin, whole))
    same = (mine[:, None] == theirs[None]).all(2)
    if not bool(same.any(1).all()):
        raise ValueError("the batch norms are not those of the whole network")
    return same.int().argmax(1)


def recovered(thin: Network, lesson: Lesson, config: RecoverConfig, state_dir: Path, *, refits: bool = True) -> int:
    """Recovers `thin` in place; the number of gradient steps. Without `refits` by these alone, batch norms too."""
    if refits:
        refit(thin, lesson)
    thin.to(memory_format=torch.channels_last)
    for module in thin.modules():
        if isinstance(module, nn.Linear):
            module.requires_grad_(False)
    for vector in (one for one in thin.parameters() if refits and one.ndim < 2):
        vector.requires_grad_(False)
    config = config.model_copy(update={"batch": min(config.batch, len(lesson.learn))})
    per_epoch = len(lesson.learn) // config.batch
    steps = (config.epochs or USUAL_EPOCHS) * per_epoch
    warmup = min(round(config.warmup_epochs * per_epoch), max(1, round(_WARMUP_SHARE * steps)))
    plan = Plan(steps, warmup, score_of(lesson), max(1, round(steps / LOOKS)))
    data = batches_for(lesson.learn, lesson.spec, config)

    def objective(network: Network, images: Tensor, _: Tensor) -> Tensor:
        return _losses(network, lesson, images)[0]

    fitted = fit(Training(thin, objective, data, config, state_dir, refines=refits), plan)
    thin.load_state_dict(fitted.weights)
    return fitted.steps


def score_of(lesson: Lesson) -> Callable[[Network], float]:
    """Divergence plus relative error of the features on held-out images."""
    batches = [torch.from_numpy(x) for x, _ in lesson.held_out.batches(lesson.spec, 250)]

    def score(network: Network) -> float:
        with torch.no_grad():
            network.eval()
            found = [len(x) * sum(map(float, _losses(network, lesson, x))) for x in batches]
        return sum(found) / len(lesson.held_out)

    return score


def _losses(network: Network, lesson: Lesson, images: Tensor) -> tuple[Tensor, Tensor]:
    """Relative error of the features, and divergence of the outputs."""
    images = images.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        goal = outputs_from(lesson.whole, lesson.whole.stem(images))
    found = outputs_from(network, network.stem(images))
    last = list(lesson.kept.values())[-1]
    return relative_error(found.features, goal.features[:, last]), soft_divergence(found.logits, goal.logits, 1.0)


@torch.no_grad()
def refit(thin: Network, lesson: Lesson) -> None:
    """Every layer of every module by least squares, in place."""
    batches = [
        batch
        for split, is_held_out in ((lesson.learn, False), (lesson.held_out, True))
        for batch in _begun(thin.eval(), lesson, split, is_held_out=is_held_out)
    ]
    whole = dict(lesson.whole.units())
    for name, unit in thin.units():
        module = folded_module(unit)
        targets = [_targets(folded_module(whole[name]), lesson, name, batch) for batch in batches]
        fits = []
        for number, layer in enumerate(module.layers):
            looks = [Look(batch.mine, *wanted[number]) for batch, wanted in zip(batches, targets, strict=True)]
            held_out = [batch.is_held_out for batch in batches]
            parts = [[look for look, out in zip(looks, held_out, strict=True) if out is part] for part in (False, True)]
            learn, judge = (module.rows(number, part, sum(look.targets.shape[1] for look in part)) for part in parts)
            fits.append(module.refitted(number, learn, judge))
            layer.take(fits[-1])
        if _error(module, batches) < _error(unit, batches):
            for layer, one in zip(module.layers, fits, strict=True):
                layer.write_back(one, module.carrier if layer is module.layers[-1] else None)
        for batch in batches:
            batch.mine = unit(batch.mine)


def _begun(thin: Network, lesson: Lesson, split: Split, *, is_held_out: bool) -> Iterator[_Batch]:
    """The images of `split` behind both stems."""
    for seed, (images, _) in enumerate(split.batches(lesson.spec, _BATCH)):
        x = torch.from_numpy(images).contiguous(memory_format=torch.channels_last)
        yield _Batch(lesson.whole.stem(x), thin.stem(x), seed, is_held_out)


def _targets(taught: FoldedModule, lesson: Lesson, name: str, batch: _Batch) -> list[tuple[Tensor, Tensor]]:
    """For each layer the positions looked at, and what it is to give there; the whole network goes past the module."""
    kept = [lesson.kept[f"{name}.bn{number + 1}"] for number in range(len(taught.layers))]
    goals, total = taught.goals(batch.theirs)
    batch.theirs = taught.after(total)
    batch.goal = batch.theirs[:, kept[-1]]
    found = []
    for layer, y, left in zip(taught.layers, goals, kept, strict=True):
        at = drawn(y, _ROWS // (len(lesson.learn) + len(lesson.held_out)), batch.seed)
        found.append((at, layer.outputs(y, at)[..., left]))
    return found


def _error(module: Callable[[Tensor], Tensor], batches: Sequence[_Batch]) -> float:
    """How far from its goal is what `module` makes of the held-out images."""
    held_out = [batch for batch in batches if batch.is_held_out]
    return sum(float((module(batch.mine) - batch.goal).double().square().sum()) for batch in held_out)
