"""How many steps fit into the time a recovery may take, and whether that is enough.

A budget that is too short is refused as soon as that shows: a few images tell how long all must take at least, and
what is measured later is held against the budget at once.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import NamedTuple

import torch

from edgeres.core.errors import AlwaysRefused
from edgeres.core.progress import text_from
from edgeres.core.spec import ModelSpec
from edgeres.data import Split
from edgeres.models.network import Network
from edgeres.prune.config import RecoverConfig

LOOKS = 10
FEWEST_STEPS = 10
_SPARE_SHARE = 0.03  # of the budget, for saving and for steps slower than the timed ones
_CLOCK_S = 1e-6  # shorter is no time
_MOST_TRIED = 256  # images at a time, as many as a look sees


class ImageTime(NamedTuple):
    """Seconds for an image: to read it, and for a network to see it."""

    read_s: float
    see_s: float


class BudgetTooShort(AlwaysRefused):
    """What was asked for does not fit into the time that was given."""


@dataclass(frozen=True)
class Budget:
    """What `config` allows; `begun_s` is when it began to run, on time.perf_counter.

    `most`: the steps there are to take if time is no limit.
    """

    config: RecoverConfig
    begun_s: float
    most: int

    def steps(
        self, *, step_s: float, look_s: float, ahead_s: float = 0.0, solving: float = 0.0, fewest: int = FEWEST_STEPS
    ) -> int:
        """Those there is time for beside what is `ahead_s` of the first and a share of `solving`, at most `most`.

        Raises BudgetTooShort if they are fewer than `fewest`, too few to be worth it; without steps, if what is
        `ahead_s` takes longer.
        """
        if self.config.budget_s is None:
            return self.most
        if not self.config.trains:
            self.check_time(ahead_s)
            return self.most
        used_s = time.perf_counter() - self.begun_s + ahead_s + (LOOKS + 1) * look_s
        left_share = 1 - _SPARE_SHARE - solving
        fitting = int((self.config.budget_s * left_share - used_s) / max(step_s, _CLOCK_S))
        if max(0, fitting) >= min(fewest, self.most):
            return min(max(0, fitting), self.most)
        needed_s = (used_s + FEWEST_STEPS * step_s) / left_share
        least = text_from(needed_s + 1)
        least += f", {100 * solving:.0f} % of it to solve modules: all of them may need more" if solving else ""
        raise BudgetTooShort(
            f"--budget {self.config.budget} is too short: {max(0, fitting)} steps of {self.config.batch} images fit"
            f" ({step_s:.2g} s each) beside {text_from(used_s)} that any budget pays (loading, timing a few steps,"
            f" {LOOKS + 1} looks at held-out images); {FEWEST_STEPS} steps need at least {least}"
        )

    def check_time(self, ahead_s: float) -> None:
        """Raises BudgetTooShort if what is `ahead_s`, beside what was done, is more than the budget."""
        needed_s = time.perf_counter() - self.begun_s + ahead_s
        if self.config.budget_s is not None and needed_s > self.config.budget_s:
            what = ", ".join(self.config.method)
            raise BudgetTooShort(
                f"--budget {self.config.budget} is too short: {what} of {self.config.images} images needs at least"
                f" {text_from(needed_s + 1)}"
            )


def pace_of(network: Network, split: Split, spec: ModelSpec, *, limit_s: float) -> ImageTime:
    """By ever more images of `split` until `limit_s` is over; the first, which wakes everything up, does not count."""
    device, most = next(network.eval().parameters()).device, min(len(split), _MOST_TRIED)
    begun_s = time.perf_counter()
    for place, count in enumerate((1, *(1 << power for power in range(most.bit_length())))):
        start_s = time.perf_counter()
        images = torch.from_numpy(next(split.subset(range(count)).batches(spec, count))[0])
        read_s = time.perf_counter()
        with torch.inference_mode():
            float(network(images.to(device)).sum())  # waits for a GPU
        seen_s = time.perf_counter()
        if place and seen_s - begun_s > limit_s:
            break
    return ImageTime((read_s - start_s) / count, (seen_s - read_s) / count)
