"""How long a training lasts, at which rate, and which weights it keeps: those that score best on held-out images.

A look is a score of the weights as they are then, smaller being better. The first is taken before the first step, so
what is kept is never worse on the held-out images than what came in.

A plan with an end by the clock is made shorter as soon as its steps would last longer, and longer again, up to what was
planned, if they do not: the rate comes down over the steps that are left as it would have over those planned.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from torch import Tensor, nn

from edgeres.core.processes import agreed
from edgeres.models.network import Network
from edgeres.train.config import Schedule

Score = Callable[[Network], float]
Looks = list[tuple[int, float]]
_STEP_AT, _STEP_FACTOR = (0.5, 0.75), 0.1  # He et al. 2015, section 4.2: after 32k and 48k of 64k steps
_PATIENT_UNTIL = 0.75  # of the steps: what held-out images gain under a cosine comes when the rate has fallen
_RECENT, _RECENT_SHARE = 5, 0.02  # steps, or share of the time: their median is the pace, whatever a pause lasts
_FEWEST = 3  # of them
_CLOCK_S = 1e-6  # shorter is no time
_SPARE = 0.03  # of the time that is left when the end is moved
_WORTH = 1.25  # times the steps that are left, and more of them are taken again


@dataclass(frozen=True)
class Plan:
    """`steps` in all, `warmup` of them with a rising rate; with `score`, a look every `look_every` and at the end.

    After `patience` looks without a better one the training stops, in its last quarter only. `until_s`, on
    time.perf_counter: when it is to be over, with fewer steps if need be. `moves`: where the end was moved when this
    training was done before, (after which step, to how many).
    """

    steps: int
    warmup: int
    score: Score | None = None
    look_every: int = 1
    patience: int = 3
    until_s: float | None = field(default=None, compare=False)
    moves: tuple[tuple[int, int], ...] = ()


class Course:
    """The steps there are to be: those of the plan, or fewer where the clock leaves no time for them.

    `moved`: (after which step, to how many steps in all) each time that the end was moved.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.moved: list[tuple[int, int]] = []
        self._durations_s: deque[float] = deque()
        self._look_s = 0.0
        self.begin()
        self._recent_s = _RECENT_SHARE * ((plan.until_s or self._last_s) - self._last_s)

    def begin(self) -> None:
        """What came before now is no step's time."""
        self._last_s = time.perf_counter()

    @property
    def steps(self) -> int:
        """In all."""
        return self.moved[-1][1] if self.moved else self._plan.steps

    def place(self, step: int) -> float:
        """Where `step` stands among the steps as planned, from 0 to their number."""
        place, last, total = 0.0, 0, self._plan.steps
        for at, steps in [*self.moved, (step, 0)]:
            place += max(0, min(at, step) - last) * (self._plan.steps - place) / max(1, total - last)
            last, total = at, steps
        return place

    def is_due(self, step: int) -> bool:
        """Whether there is a look after `step` steps."""
        return self._plan.score is not None and (step % self._plan.look_every == 0 or step == self.steps)

    def went_on(self, *, looked: bool = False) -> None:
        """Takes note of how long what came since the last call took: a step, or a look."""
        now_s = time.perf_counter()
        if looked:
            self._look_s = now_s - self._last_s
        else:
            self._durations_s.append(now_s - self._last_s)
            while len(self._durations_s) > _RECENT and sum(self._durations_s) > self._recent_s:
                self._durations_s.popleft()
        self._last_s = now_s

    def keep_in_time(self, step: int) -> None:
        """After `step` steps: moves the end, in all processes alike, if the clock says so, or did."""
        self.moved += [move for move in self._plan.moves if move[0] == step]
        if self._plan.until_s is not None and step < self.steps:
            steps = int(_agreed(lambda: self._in_time(step)))
            if steps != self.steps:
                self.moved.append((step, steps))

    def _in_time(self, step: int) -> int:
        """The steps there should be in all: as they are, fewer if they last too long, more if they need not be few."""
        assert self._plan.until_s is not None
        left, step_s = self.steps - step, median(self._durations_s)
        left_s = self._plan.until_s - time.perf_counter()
        if len(self._durations_s) < _FEWEST and _FEWEST * step_s < left_s:
            return self.steps
        looks = 0 if self._plan.score is None else 1
        each_s = max(step_s + looks * self._look_s / self._plan.look_every, _CLOCK_S)
        fitting = max(0, int(((1 - _SPARE) * left_s - looks * self._look_s) / each_s))
        if left * each_s + looks * self._look_s > left_s or fitting > _WORTH * left:
            return min(step + fitting, self._plan.steps)
        return self.steps


def rate_at(step: float, *, steps: int, warmup: int, kind: Schedule) -> float:
    """Share of the full learning rate at `step` of `steps`: linear up to 1 over `warmup` steps, then `kind`.

    Source: Goyal et al. 2017, arXiv 1706.02677 (warm-up); Loshchilov & Hutter 2016, 1608.03983 (cosine).
    """
    if step < warmup:
        return min(1.0, (step + 1) / warmup)
    progress = (step - warmup) / max(1, steps - warmup)
    if kind == "cosine":
        return (1 + math.cos(math.pi * progress)) / 2
    return _STEP_FACTOR ** sum(step >= at * steps for at in _STEP_AT)


class HeldOut:
    """The looks so far as (step, score), and a copy of the weights of the best one."""

    def __init__(self, plan: Plan, course: Course) -> None:
        self._plan, self._course = plan, course
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
        if not self.looks or self._course.place(self.looks[-1][0]) < _PATIENT_UNTIL * self._plan.steps:
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
    value = float(agreed(measure))
    return value if math.isfinite(value) else math.inf
