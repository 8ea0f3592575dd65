"""How long to measure: until every median is known well enough, or time is up.

    precision of a median = wider side of its 95 % interval / median

After the first rounds the interval is looked at again whenever a quarter more has been measured, not after every round:
a rule that stops at the first narrow interval stops at those that are narrow by luck, the more often it looks. It looks
at widths only, never at speeds.

Source: Chow & Robbins 1965, doi:10.1214/aoms/1177700156 (intervals of fixed width).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from edgeres.bench.session import Enough, Measured
from edgeres.core.statistics import interval_of

GROWTH = 1.25
_SHARE = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(%?)")
_WIDEST = 0.5


def share_from(text: str) -> float:
    """0.01 from "1%", "1 %" or "0.01"; raises ValueError for anything else, for nothing and for more than a half."""
    match = _SHARE.fullmatch(text.strip())
    share = float(match[1]) / (100 if match[2] else 1) if match else 0.0
    if not 0 < share <= _WIDEST:
        raise ValueError("a precision is written 1% or 0.01, up to 50%")
    return share


def precision_of(measured: Measured) -> float:
    """Wider side of the 95 % interval of the median, as a fraction of it."""
    rounds = [len(samples) for samples in measured.rounds]
    return interval_of(measured.samples_ms, rounds, q=50).precision


def enough_for(precision: float, *, models: int, limit_s: float) -> Enough:
    """Says of the rounds so far whether the first `models` have the precision, or have been timed for `limit_s`."""
    next_look = 0

    def enough(measured: Sequence[Measured]) -> bool:
        nonlocal next_look
        watched, rounds = measured[:models], len(measured[0].rounds)
        if max(sum(one.samples_ms) for one in watched) >= 1000 * limit_s:
            return True
        if rounds < next_look:
            return False
        next_look = math.ceil(GROWTH * rounds)
        return all(precision_of(one) <= precision for one in watched)

    return enough
