"""What a changed network answers, image by image, so that changes are compared on the same images.

Images and random draws are both a sample, so for an interval each of the two is drawn anew with replacement.
Source: Efron & Tibshirani 1993, chapters 8 and 13 (percentile interval).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeres.core.progress import track
from edgeres.core.statistics import RESAMPLES

if TYPE_CHECKING:
    from torch import Tensor

    from edgeres.core.spec import ModelSpec
    from edgeres.data import Split
    from edgeres.models.network import Network

K = TypeVar("K")
Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Outcome:
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
) -> dict[K, Outcome]:
    """The Outcome of every variant.

    `variants` takes images float32 (N, C, H, W), normalised, and yields (name of the variant, logits (N, K)).
    """
    import torch

    parts: dict[K, list[Outcome]] = {}
    for x, labels in track(images.batches(spec, batch), description, -(-len(images) // batch)):
        inputs, targets = torch.from_numpy(x), torch.from_numpy(labels)
        with torch.inference_mode():
            reference = network(inputs)
            for name, logits in variants(inputs):
                parts.setdefault(name, []).append(outcome_of(logits, targets, reference))
    return {name: _joined(part) for name, part in parts.items()}


def outcome_of(logits: Tensor, labels: Tensor, reference: Tensor) -> Outcome:
    """Logits (N, K), labels (N,) and the whole network's logits (N, K)."""
    import torch.nn.functional as F

    log_p, log_q = F.log_softmax(logits.double(), dim=1), F.log_softmax(reference.double(), dim=1)
    return Outcome(
        right=(logits.argmax(1) == labels).numpy(),
        loss=F.nll_loss(log_p, labels, reduction="none").numpy(),
        kl=F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(1).numpy(),
    )


def _joined(parts: Sequence[Outcome]) -> Outcome:
    return Outcome(
        right=np.concatenate([part.right for part in parts]),
        loss=np.concatenate([part.loss for part in parts]),
        kl=np.concatenate([part.kl for part in parts]),
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
