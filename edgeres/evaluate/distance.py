"""The distance of a changed network's outputs from the whole one's, as `core.distances` defines it, on tensors.

Where outputs are one-sided the divergence is nearly 0 whatever is done to them: a network of two classes shown images
of one of them stays sure of that, while the order of the scores, by which images are told apart, is lost. Then the
relative error of the centred outputs decides, in which a constant part of the scores has no weight. On ResNet-20 with
heads "is it class k" (k = 0, 5, 8) and 400 photos of the nine others, one module deleted at a time: the order of the
modules by KL has a rank correlation of -0.22, 0.13 and -0.28 with the loss of the scores' order (Spearman's, to the
whole network's), by the centred error 0.82, 0.65 and 0.72.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeres.core.distances import MEASURE_OF, NAME_OF, OF_CLASSES, Measure, powers_of, relative, split
from edgeres.core.spec import Task

ONE_SIDED = 0.95  # of the images with one and the same first guess


@dataclass(frozen=True)
class Distance:
    """A measure, and for errors the mean squared length of what the whole network gives, centred or not.

    Of several outputs `powers` has one each, and `sizes` tells them apart. `why` says what made another measure of it
    than the task's usual one.
    """

    measure: Measure = "kl"
    powers: tuple[float, ...] = (1.0,)
    sizes: tuple[int, ...] = ()
    why: str = ""

    def each(self, found: Tensor, goal: Tensor) -> Tensor:
        """Of every image, float64 (N,)."""
        a, b = goal.double().flatten(1), found.double().flatten(1)
        if self.measure == "kl":
            return _divergence(b, a).sum(1)
        if self.measure == "cosine":
            return 1 - F.cosine_similarity(a, b, dim=1)
        return relative(_centred(a - b, self.measure).square(), self.powers, self.sizes)

    def total(self, found: Tensor, goal: Tensor) -> float:
        """The sum over the images."""
        if self.measure == "kl":
            return float(_divergence(found.double(), goal.double()).sum())
        return float(self.each(found, goal).sum())

    @property
    def has_classes(self) -> bool:
        """Whether the outputs are scores of classes, the first of which is a guess."""
        return self.measure in OF_CLASSES

    @property
    def name(self) -> str:
        """In words."""
        return NAME_OF[self.measure]


KL = Distance()


def distance_for(task: Task, references: Iterable[Tensor], sizes: tuple[int, ...] = ()) -> Distance:
    """What tells a changed network from the whole one, which gives `references` (N, ...), batch by batch.

    They are looked at where the measure depends on them: of an embedding it does not. `sizes`: of several outputs.
    """
    measure = MEASURE_OF[task]
    if measure == "cosine":
        return Distance(measure)
    if measure == "error":
        squares = (one.double().flatten(1).square() for one in references)
        sums = torch.cat([torch.stack([one.sum(1) for one in split(each, sizes)], 1) for each in squares])
        return Distance(measure, powers_of(sums, [1] * sums.shape[1]), sizes)
    whole = torch.cat([one.double() for one in references])
    guesses = whole.argmax(1)
    share = float((guesses == guesses.mode().values).double().mean())
    if share < ONE_SIDED:
        return KL
    scores = _centred(whole, "centred")
    why = f"{share:.1%} of the images have the same first guess, so that KL tells nothing apart"
    return Distance("centred", powers_of((scores - scores.mean(0)).square(), ()), why=why)


def evened(reference: Tensor, sizes: Sequence[int]) -> Tensor:
    """What squares (N, K) are divided by so that each output counts alike: its power in `reference`; 1 for a single."""
    if not sizes:
        return torch.ones(())
    return torch.cat(
        [
            one.new_full((one.shape[1],), power)
            for one, power in zip(split(reference, sizes), powers_of(reference.square(), sizes), strict=True)
        ]
    )


def _divergence(found: Tensor, goal: Tensor) -> Tensor:
    p, q = F.log_softmax(goal, dim=1), F.log_softmax(found, dim=1)
    return F.kl_div(q, p, reduction="none", log_target=True)


def _centred(outputs: Tensor, measure: Measure) -> Tensor:
    """Without what is common to all scores of an image, which a softmax does not see."""
    return outputs - outputs.mean(1, keepdim=True) if measure == "centred" else outputs
