"""Published statements under test, one verdict each; together they are as good as the weakest."""

from __future__ import annotations

from collections.abc import Sequence

from edgeres.core.config import Record
from edgeres.core.statistics import Interval
from edgeres.study.result import Value, Verdict

_WEAKEST_FIRST: tuple[Verdict, ...] = ("not supported", "undecided", "supported")


class Claim(Record):
    """What was said and where, and what this run says to it; `because` gives the figures."""

    claim: str
    source: str
    verdict: Verdict
    because: str


def weakest(claims: Sequence[Claim]) -> Verdict:
    """The verdict on all of them; raises ValueError if there are none."""
    return min((claim.verdict for claim in claims), key=_WEAKEST_FIRST.index)


def in_words(claims: Sequence[Claim]) -> str:
    """Each verdict with its reason, in one line."""
    return "; ".join(f"{claim.verdict}: {claim.because}" for claim in claims)


def range_of(interval: Interval, digits: int = 2) -> str:
    """`0.97 [0.95, 0.98]`: the figure and its 95 % interval."""
    return f"{interval.value:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def numbers(rows: Sequence[dict[str, Value]], column: str) -> list[float]:
    """A column of a study's table, its gaps left out."""
    return [float(value) for row in rows if (value := row.get(column)) is not None]
