"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math

from edgeres.train.config import Schedule

# He et al. 2015, section 4.2: divided by 10 after 32k and 48k of 64k steps.
_STEP_AT = (0.5, 0.75)
_STEP_FACTOR = 0.1


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
