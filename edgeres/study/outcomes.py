"""What a changed network answers, image by image, and whether its error rises smoothly with the change or off a cliff.

    rank_correlation   Spearman's, between size and error over all draws
    rise               largest mean error of a level - error of the whole network, points
    steepest           largest step between neighbouring levels / rise; 1 for a cliff, 1 / levels for a straight line

The whole network is level 0.

Images and random draws are both a sample, so for an interval each of the two is drawn anew with replacement.
Source: Efron & Tibshirani 1993, chapters 8 and 13 (percentile interval).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from edgeres.core.config import Record
from edgeres.core.metrics import Interval
from edgeres.core.spec import ModelSpec
from edgeres.core.statistics import RESAMPLES, resampled_interval
from edgeres.data import Split
from edgeres.evaluate.sums import reference_batches
from edgeres.models.network import Network
from edgeres.study.result import Verdict, judged

CLIFF = 0.5  # of the whole rise in one step
MIN_LEVELS = 4  # fewer steps cannot tell a slope from a cliff
K = TypeVar("K")
Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


class Outcomes(NamedTuple):
    """One network on N images.

    right: bool (N,). loss: float64 (N,), cross-entropy in nats. kl: float64 (N,), divergence from the whole network's
    distribution to this one's in nats.
    """

    right: NDArray[np.bool_]
    loss: Floats
    kl: Floats

    @property
    def error_percent(self) -> float:
        """Share of wrong first guesses."""
        return 100 * (1 - float(self.right.mean()))


def outcomes_of(
    network: Network,
    images: Split,
    spec: ModelSpec,
    variants: Callable[[Tensor], Iterable[tuple[K, Tensor]]],
    *,
    batch: int,
    description: str,
) -> dict[K, Outcomes]:
    """The Outcomes of every variant.

    `variants` takes images float32 (N, C, H, W), normalised, and yields (name of the variant, logits (N, K)).
    """
    parts: dict[K, list[Outcomes]] = {}
    for x, labels in images.shown(spec, batch, description):
        (one,) = reference_batches(network, [(torch.from_numpy(x), torch.from_numpy(labels))])
        with torch.inference_mode():
            for name, logits in variants(one.images):
                parts.setdefault(name, []).append(outcome_of(logits, one.labels, one.reference))
    return {key: Outcomes(*map(np.concatenate, zip(*some, strict=True))) for key, some in parts.items()}


def outcome_of(logits: Tensor, labels: Tensor, reference: Tensor) -> Outcomes:
    """Logits (N, K), labels (N,) and the whole network's logits (N, K)."""
    log_p, log_q = F.log_softmax(logits.double(), dim=1), F.log_softmax(reference.double(), dim=1)
    return Outcomes(
        right=(logits.argmax(1) == labels).numpy(),
        loss=F.nll_loss(log_p, labels, reduction="none").numpy(),
        kl=F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(1).numpy(),
    )


def resampled_means(values: Floats, generator: np.random.Generator) -> Floats:
    """Means (RESAMPLES, V) of `values` (V, N), of V networks on the same N images, the images drawn anew each time."""
    n = values.shape[1]
    weights = generator.multinomial(n, np.full(n, 1 / n), size=RESAMPLES) / n
    means: Floats = weights @ values.T
    return means


def redrawn(groups: Sequence[int], generator: np.random.Generator) -> Indices:
    """Places (RESAMPLES, V) of V draws, drawn anew inside each group; groups (V,) says which one each is of."""
    labels = np.asarray(groups)
    places = np.empty((RESAMPLES, len(labels)), np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        places[:, members] = members[generator.integers(len(members), size=(RESAMPLES, len(members)))]
    return places


@dataclass(frozen=True)
class Draw:
    """One disturbed network: how many changes were made, how large they are, what came out."""

    level: int
    size: float
    outcome: Outcomes


class Level(Record):
    """All draws of one level: mean size, mean error with its 95 % interval, quartiles of the draws, in per cent."""

    level: int
    size: float
    draws: int
    error: Interval
    quartiles: tuple[float, float, float]


class Trend(Record):
    """See above; `n` images, `draws` networks."""

    n: int
    draws: int
    rank_correlation: Interval
    rise_points: Interval
    steepest: Interval
    levels: tuple[Level, ...]


def trend_of(whole: Outcomes, draws: Sequence[Draw], *, seed: int = 0) -> Trend:
    """The trend over `draws`, in order of their levels (at least one)."""
    generator = np.random.default_rng(seed)
    every = [Draw(0, 0.0, whole), *sorted(draws, key=lambda draw: draw.level)]
    wrong = 100 * np.stack([~draw.outcome.right for draw in every]).astype(np.float64)
    groups, sizes = [draw.level for draw in every], np.asarray([draw.size for draw in every])
    labels = np.asarray(groups)
    places = redrawn(groups, generator)
    errors, again = wrong.mean(1), np.take_along_axis(resampled_means(wrong, generator), places, axis=1)
    means, means_again = _by_level(errors[None], groups)[0], _by_level(again, groups)
    ranks = np.asarray([rank_correlation(sizes[p[1:]], e[1:]) for p, e in zip(places, again, strict=True)])
    return Trend(
        n=wrong.shape[1],
        draws=len(draws),
        rank_correlation=resampled_interval(rank_correlation(sizes[1:], errors[1:]), ranks),
        rise_points=resampled_interval(float(means.max() - means[0]), means_again.max(1) - means_again[:, 0]),
        steepest=resampled_interval(float(_steepest(means[None])[0]), _steepest(means_again)),
        levels=tuple(
            Level(
                level=level,
                size=float(sizes[labels == level].mean()),
                draws=int((labels == level).sum()),
                error=resampled_interval(float(mean), column),
                quartiles=np.percentile(errors[labels == level], (25, 50, 75)).tolist(),
            )
            for level, mean, column in zip(sorted(set(groups)), means, means_again.T, strict=True)
        ),
    )


def is_smooth(trend: Trend) -> tuple[Verdict, str]:
    """Whether the error rises with the size and no single step makes most of the rise."""
    steps, rank, steepest = len(trend.levels) - 1, trend.rank_correlation, trend.steepest
    text = (
        f"rank correlation of size and error {rank.text()} over {trend.draws} networks; the steepest of {steps} steps"
        f" makes {steepest.text()} of the rise of {trend.rise_points.value:.1f} points"
    )
    if steps < MIN_LEVELS:
        return "undecided", f"{steps} levels are too few to tell a slope from a cliff ({text})"
    rises, falls_off = rank.low > 0 and steepest.high < CLIFF, rank.high <= 0 or steepest.low >= CLIFF
    return judged(holds=rises, fails=falls_off), text


def rank_correlation(x: Floats, y: Floats) -> float:
    """Spearman's: Pearson's correlation of the ranks, ties given their mean rank; 0 if one of them is constant."""
    a, b = _ranks(x), _ranks(y)
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / norm if norm else 0.0


def _ranks(values: Floats) -> Floats:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Floats = (last - (counts - 1) / 2)[inverse]
    return ranks


def _by_level(errors: Floats, groups: Sequence[int]) -> Floats:
    """Mean of each level (B, L), levels in order, of errors (B, V)."""
    labels = np.asarray(groups)
    return np.stack([errors[:, labels == label].mean(1) for label in np.unique(labels)], axis=1)


def _steepest(means: Floats) -> Floats:
    """The largest step over the rise (B,) of means (B, L); 1 where nothing rises."""
    rise = means.max(1) - means[:, 0]
    shares: Floats = np.divide(np.diff(means, axis=1).max(1), rise, out=np.ones_like(rise), where=rise > 0)
    return shares
