"""How near a network's outputs are to another's on the same images: what it is judged by where nobody can be right.

    cosine    a b / (|a| |b|) of each image's outputs                an embedding
    error     |a - b|^2 over the mean of |a|^2                       other tensors; of several outputs the mean
    guess     the share of images with the same first guess          scores of classes, images without labels

Of the first two the mean stands beside what one image in a hundred is worse than.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeres.core.artifacts import Model
from edgeres.core.distances import powers_of, relative, split
from edgeres.core.errors import InputError
from edgeres.core.metrics import Z_95, Closeness, Likened
from edgeres.core.processes import shared
from edgeres.core.spec import Task
from edgeres.data import Dataset, Split
from edgeres.runtime import runner_for
from edgeres.runtime.runner import Images, Runner, RunnerOptions, check_outputs, infer_all

Outputs = NDArray[np.float32]
_LIKENED_BY: dict[Task, Likened] = {"classes": "guess", "embedding": "cosine", "tensors": "error"}
_WORST_PERCENT = 1


@dataclass
class Nearness:
    """Counted batch by batch; what is kept is a number for each image, and power, of several outputs (`parts`) each."""

    task: Task
    parts: tuple[tuple[str, int], ...] = ()
    _each: list[NDArray[np.float64]] = field(default_factory=list)
    _powers: list[NDArray[np.float64]] = field(default_factory=list)

    def add(self, outputs: Outputs, reference: Outputs) -> None:
        """Counts (N, ...) of both."""
        b, a = (one.reshape(len(one), -1).astype(np.float64) for one in (outputs, reference))
        power, sizes = (a * a).sum(1), [size for _, size in self.parts]
        if self.task == "classes":
            each = (a.argmax(1) == b.argmax(1)).astype(np.float64)
        elif self.task == "embedding":
            lengths = np.sqrt(power * (b * b).sum(1))
            is_known = lengths > 0  # two vectors of zeros are the same, one has no direction
            each = np.where(is_known, (a * b).sum(1) / np.where(is_known, lengths, 1), (a == b).all(1))
        else:
            each, power = (np.stack([one.sum(1) for one in split(c, sizes)], 1) for c in (np.square(a - b), a * a))
        self._each.append(each)
        self._powers.append(power)

    def share(self) -> None:
        """Counts what all processes have counted, each its own batches."""
        of_all = zip(*shared(lambda: (self._each, self._powers)), strict=True)
        self._each, self._powers = ([*chain(*parts)] for parts in of_all)

    @property
    def each(self) -> NDArray[np.float64]:
        """The figure of every image."""
        each, ones = np.concatenate(self._each), [1] * max(1, len(self.parts))
        return relative(each, self._power, ones) if self.task == "tensors" else each

    @property
    def _power(self) -> tuple[float, ...]:
        return powers_of(np.concatenate(self._powers), [1] * max(1, len(self.parts)))

    @property
    def half_width(self) -> float:
        """Of the mean's 95 % interval."""
        return Z_95 * float(self.each.std()) / math.sqrt(len(self.each))

    def closeness(self, **of: Any) -> Closeness:
        """The figures; `worst` is the first percentile of cosines, the 99th of errors, of guesses there is none."""
        each, errors, powers = self.each, np.concatenate(self._each), self._power if self.parts else ()
        worst = {"embedding": _WORST_PERCENT, "tensors": 100 - _WORST_PERCENT}.get(self.task)
        return Closeness(
            measure=_LIKENED_BY[self.task],
            mean=float(each.mean()),
            worst=None if worst is None else float(np.percentile(each, worst)),
            parts={name: float(errors[:, at].mean() / powers[at]) for at, (name, _) in enumerate(self.parts)},
            **of,
        )


def lost_of(near: Closeness) -> float:
    """What is between it and the reference itself: 1 - cosine, the relative error, or the share of other guesses."""
    return near.mean if near.measure == "error" else 1 - near.mean


def check_alike(model: Model, other: Model, said: str) -> None:
    """Raises InputError, which `said` begins, if they take other images or give something else."""
    for what in ("task", "num_classes", "parts", "input_shape", "preprocess"):
        mine, theirs = getattr(model.spec, what), getattr(other.spec, what)
        if mine != theirs:
            raise InputError(f"{said}: {what} is {mine} and {theirs}")


def nearness_of(
    model: Model, reference: Model, dataset: Dataset, images: Split, *, batch: int = 250, threads: int | None = None
) -> tuple[Closeness, float]:
    """Of `model` to `reference`, both fed alike, on a split of `dataset`; the half-width of the mean's 95 % interval.

    Raises InputError if the outputs are no such numbers, StageError if one is not finite.
    """
    nearness, options = Nearness(model.spec.task, model.spec.parts), RunnerOptions(threads=threads)
    is_itself = model.sha256 == reference.sha256
    with runner_for(model, options) as runner, runner_for(reference, options) as whole:
        for x, _ in images.own(model.spec.at_once(batch)).shown(model.spec, batch, f"eval {model.path.name}"):
            outputs = outputs_of(runner, model, x)
            nearness.add(outputs, outputs if is_itself else outputs_of(whole, reference, x))
        nearness.share()
        name = runner.name
    found = nearness.closeness(
        n=len(images),
        dataset=dataset.name,
        split=images.name,
        runtime=name,
        artifact=model.sha256,
        reference=reference.sha256,
    )
    return found, nearness.half_width


def outputs_of(runner: Runner, model: Model, images: Images) -> Outputs:
    """What the loaded `model` gives for any number of images; InputError or StageError if that is no such numbers."""
    outputs = infer_all(runner, images)
    check_outputs(outputs, model.spec.num_classes, f"eval: {model.path}", model.spec.task)
    return outputs
