"""How long a training lasts, at which rate, and which weights it keeps: those that score best on held-out images.

A look is a score of the weights as they are then, smaller being better. The first is taken before the first step, so
what is kept is never worse on the held-out images than what came in.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from edgeres.models.network import Network
from edgeres.train.config import Schedule
from edgeres.train.processes import is_main

Score = Callable[[Network], float]
Looks = list[tuple[int, float]]
_STEP_AT, _STEP_FACTOR = (0.5, 0.75), 0.1  # He et al. 2015, section 4.2: after 32k and 48k of 64k steps
_PATIENT_UNTIL = 0.75  # of the steps: what held-out images gain under a cosine comes when the rate has fallen


@dataclass(frozen=True)
class Plan:
    """`steps` in all, `warmup` of them with a rising rate; with `score`, a look every `look_every` and at the end.

    After `patience` looks without a better one the training stops, in its last quarter only.
    """

    steps: int
    warmup: int
    score: Score | None = None
    look_every: int = 1
    patience: int = 3

    def is_due(self, step: int) -> bool:
        """Whether there is a look after `step` steps."""
        return self.score is not None and (step % self.look_every == 0 or step == self.steps)


def rate_at(step: int, *, steps: int, warmup: int, kind: Schedule) -> float:
    """Share of the full learning rate at `step` of `steps`: linear up to 1 over `warmup` steps, then `kind`.

    Source: Goyal et al. 2017, arXiv 1706.02677 (warm-up); Loshchilov & Hutter 2016, 1608.03983 (cosine).
    """
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    if kind == "cosine":
        return (1 + math.cos(math.pi * progress)) / 2
    if kind == "step":
        return _STEP_FACTOR ** sum(step >= at * steps for at in _STEP_AT)
    return 1.0


class HeldOut:
    """The looks so far as (step, score), and a copy of the weights of the best one."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.looks: Looks = []
        self.weights: dict[str, Tensor] = {}

    def look(self, step: int, network: Any) -> None:
        """Scores `network`, in the main process for all, and keeps its weights if none were better."""
        score, is_training = self._plan.score, network.training
        if score is None:
            return
        network.eval()
        value = _agreed(lambda: score(network))
        network.train(is_training)
        is_best = not self.looks or value < min(seen for _, seen in self.looks)
        self.looks.append((step, value))
        if is_best:
            self.weights = weights_of(network)

    @property
    def has_given_up(self) -> bool:
        """Whether the last `patience` looks were no better than one before them."""
        if not self.looks or self.looks[-1][0] < _PATIENT_UNTIL * self._plan.steps:
            return False
        scores = [score for _, score in self.looks]
        return len(scores) - 1 - scores.index(min(scores)) >= self._plan.patience

    def state(self) -> dict[str, Any]:
        """Tensors and plain values that `restore` understands."""
        return {"looks": self.looks, "weights": self.weights}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes back to a saved state."""
        self.looks = [(int(step), float(score)) for step, score in state["looks"]]
        self.weights = state["weights"]


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    """A copy of the parameters and buffers, on the CPU."""
    return {key: value.detach().cpu().clone() for key, value in network.state_dict().items()}


def _agreed(measure: Callable[[], float]) -> float:
    """What the main process measures, told to all; infinite if it is no number."""
    box: list[Any] = [measure() if is_main() else None]
    value = float(broadcast_object_list(box)[0])
    return value if math.isfinite(value) else math.inf
