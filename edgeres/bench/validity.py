"""What makes the figures of a session doubtful, each with what to do; whether its measurements kept one level.

    change    Pettitt's test over the medians of the rounds x_1 .. x_n:
              U_t = sum over i <= t < j of sign(x_i - x_j),   K = max |U_t|,   p = 2 exp(-6 K^2 / (n^3 + n^2))
    outlier   a call with |M| > 3.5, M = 0.6745 (d - median d) / MAD, d: its time over the median of its round

Rounds that follow each other resemble each other, which makes p too small: a change counts only if the level also moved
by more than `MOVED`. Dividing by the round keeps a drift, which is the business of the first test, out of the second.
Outliers are counted and kept: a percentile without them would not be one.

Source: Pettitt 1979, doi:10.2307/2346729; Iglewicz & Hoaglin 1993, "How to Detect and Handle Outliers", chapter 3.
For why warm-up alone does not make a benchmark steady: Barrett et al. 2017, doi:10.1145/3133876.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeres.bench.session import Measured
from edgeres.bench.watch import Neighbours, Reading, fallen_clock, neighbours_in
from edgeres.core.amounts import counted
from edgeres.core.config import Record
from edgeres.core.environment import available_cores
from edgeres.core.metrics import Latency
from edgeres.core.statistics import percentile_interval, round_medians

MIN_ROUNDS = 16  # with fewer, even two levels that do not overlap stay above SIGNIFICANT
SIGNIFICANT = 0.01
MOVED = 0.03  # of the level; below it lies what rounds of an undisturbed CPU differ from each other
_CUT = 3.5
_NORMAL_MAD = 0.6745  # of a normal distribution, in standard deviations
_NORMAL_MEAN_DEVIATION = 1.253314  # standard deviation over mean deviation; stands in where the MAD is 0
_MIN_CALLS = 3  # a round's median says something only with them
BUSY_SHARE = 0.15  # of the cores; a desktop at rest stays below it
_OFTEN = 0.2  # of the readings; rarer bursts leave a median alone
_WIDE = 1.3  # p90 over p50, or p95; an undisturbed CPU stays below 1.1 by p90, a call of 0.04 ms below 1.25 by p95
_SHOWN = 3
_MANY = 0.05  # of the calls; p95 and above are then of those
BENCH = "edgeres bench"
RUN_AGAIN = "run again"
INVALID = "invalid"  # begins the verdict on measurements that do not count
DOUBTFUL = "doubtful"  # of those that do, with care
Series = NDArray[np.float64]


class Level(Record):
    """The likeliest change of level: between round `after_round` and the next, by the factor `ratio`."""

    rounds: int
    after_round: int
    ratio: float
    p_value: float

    @property
    def is_steady(self) -> bool:
        """Whether no change can be claimed."""
        return self.p_value >= SIGNIFICANT or abs(self.ratio - 1) <= MOVED


class Outliers(Record):
    """How many of the `calls` stand out, upwards (`slow`) or downwards (`fast`)."""

    calls: int
    slow: int
    fast: int

    @property
    def share(self) -> float:
        """Of all calls, in [0, 1]."""
        return (self.slow + self.fast) / self.calls


def level_of(latency: Latency) -> Level | None:
    """Pettitt's test over the medians of the rounds; None with fewer than MIN_ROUNDS of them."""
    medians = round_medians(latency)
    return change_in(medians) if len(medians) >= MIN_ROUNDS else None


def change_in(series: Series) -> Level:
    """Pettitt's test of float64 (n,), n at least 2."""
    n = len(series)
    signs = np.sign(series[:, None] - series[None, :])
    statistic = np.cumsum(signs.sum(axis=1))[:-1]  # pairs within the first t cancel
    split = int(np.abs(statistic).argmax()) + 1
    largest = float(abs(statistic[split - 1]))
    return Level(
        rounds=n,
        after_round=split,
        ratio=float(np.median(series[split:]) / np.median(series[:split])),
        p_value=min(1.0, 2 * math.exp(-6 * largest**2 / (n**3 + n**2))),
    )


def outliers_in(latency: Latency) -> Outliers:
    """The calls whose modified z-score exceeds 3.5."""
    scores = modified_z(_relative(latency))
    return Outliers(calls=len(scores), slow=int((scores > _CUT).sum()), fast=int((scores < -_CUT).sum()))


def modified_z(values: Series) -> Series:
    """Distances from the median in robust standard deviations: float64 (n,), all 0 if the values are all the same."""
    distances = values - np.median(values)
    spread = float(np.median(np.abs(distances))) / _NORMAL_MAD
    spread = spread or _NORMAL_MEAN_DEVIATION * float(np.abs(distances).mean())
    scores: Series = distances / spread if spread else np.zeros_like(distances)
    return scores


def _relative(latency: Latency) -> Series:
    """Each call over the median of its round, or of all calls where rounds are too short."""
    samples = np.asarray(latency.samples_ms)
    medians: Series = np.median(samples, keepdims=True)
    if latency.rounds and min(latency.rounds) >= _MIN_CALLS:
        medians = np.repeat(round_medians(latency), latency.rounds)
    relative: Series = samples / medians
    return relative


class Around(NamedTuple):
    """The machine around a session: load of other programs before and after it, and the readings taken during it."""

    before: float | None
    after: float | None
    readings: tuple[Reading, ...] = ()

    @property
    def neighbours(self) -> Neighbours | None:
        """What other programs took during the session."""
        return neighbours_in(self.readings, BUSY_SHARE * available_cores())

    @property
    def loads(self) -> dict[str, float]:
        """Cores that other programs kept busy, by when, the most first; on average during the session."""
        during = self.neighbours.mean_cores if self.neighbours else None
        seen = {"right before": self.before, "during": during, "right after": self.after}
        known = [(when, load) for when, load in seen.items() if load is not None]
        return dict(sorted(known, key=lambda pair: -pair[1]))

    @property
    def busy_cores(self) -> float | None:
        """The most of them."""
        return max(self.loads.values(), default=None)

    @property
    def most_cores(self) -> float | None:
        """The same, with every reading during the session by itself."""
        during = [self.neighbours.most_cores] if self.neighbours else []
        return max((*self.loads.values(), *during), default=None)


def is_busy(busy_cores: float | None) -> bool:
    """Whether other programs kept so many cores busy that no figure counts, however few threads the models use.

    The cores they leave free share caches, memory and often execution units with those they use.
    """
    return busy_cores is not None and busy_cores > BUSY_SHARE * available_cores()


def machine_doubts(around: Around, command: str = "") -> Iterator[str]:
    """Other programs, and a clock that fell; `command` is what to run again, if that can be said."""
    busy, during, cores = around.busy_cores, around.neighbours, available_cores()
    again = _again(command)
    if is_busy(busy):
        (when, most), *rest = around.loads.items()
        others = f" ({', '.join(f'{one} {load:.1f}' for one, load in rest)})" if rest else ""
        kept = f"{most:.1f} of {counted(cores, 'core')} {when} the session{others}"
        yield f"machine busy: other programs kept {kept}; stop them and {again}"
    elif during and during.busy_readings > _OFTEN * during.readings:
        yield (
            f"machine busy at times: in {during.busy_readings} of {during.readings} readings other programs kept"
            f" {during.most_cores:.1f} of {counted(cores, 'core')} at most; stop them and {again}"
        )
    if fell := fallen_clock(around.readings):
        yield (
            f"the clock fell from {fell[0]:,.0f} to {fell[1]:,.0f} MHz during the session; fix the clock frequency or"
            f" cool the machine, and {again}"
        )


def advice(around: Around, then: str) -> str:
    """What to do about slow calls, `then` last: other programs are named as their cause only where they were seen."""
    most, cores = around.most_cores, counted(available_cores(), "core")
    if is_busy(most):
        return f"stop other programs and {then}"
    seen = "cannot be seen here" if most is None else f"kept {most:.1f} of {cores} at most"
    return f"why is not known (other programs {seen}; the clock? a shared host?): {then}"


def model_doubts(name: str, latency: Latency, measured: Measured, around: Around) -> Iterator[str]:
    """What one model's own samples say against them."""
    todo = f"; {advice(around, RUN_AGAIN)}"
    if not measured.ready.stable:
        yield f"{name}: speed still changed after ten seconds of warm-up{todo}"
    if (level := level_of(latency)) and not level.is_steady:
        yield f"{name}: {changed(level)}{todo}"
    stray = outliers_in(latency)
    if stray.share > _MANY and _over_median(latency, 95) > _WIDE >= _over_median(latency, 90):
        known = percentile_interval(latency, 50).precision
        yield (
            f"{name}: {100 * stray.share:.0f} % of {stray.calls:,} calls are outliers ({stray.slow:,} slow) and p95 is"
            f" {_over_median(latency, 95):.2f} of the median; that is known to {100 * known:.1f} %{todo}"
        )


def verdict_from(around: Around, warnings: Sequence[str]) -> str:
    """`steady`; `invalid: ...` if the machine was busy, its clock fell or a warning says so; else `doubtful: ...`."""
    if not warnings:
        return "steady"
    said = [one.removeprefix(f"{INVALID}: ") for one in warnings if one.startswith(INVALID)]  # as boards do
    is_invalid = said or is_busy(around.busy_cores) or fallen_clock(around.readings)
    first = (said or warnings)[0].partition(";")[0]
    more = f" (and {len(warnings) - 1} more, see the warnings)" if len(warnings) > 1 else ""
    return f"{INVALID if is_invalid else DOUBTFUL}: {first}{more}"


def changed(level: Level) -> str:
    """`from round 11 of 20 on 1.34 times as slow as before (Pettitt's test: p = 0.0016)`."""
    factor, word = (level.ratio, "slow") if level.ratio > 1 else (1 / level.ratio, "fast")
    return (
        f"from round {level.after_round + 1} of {level.rounds} on {factor:.2f} times as {word} as before"
        f" (Pettitt's test: p = {level.p_value:.1g})"
    )


def warnings_for(
    names: Sequence[str],
    latencies: Sequence[Latency],
    *,
    measured: Sequence[Measured],
    around: Around,
    command: str = "",
    longer: str = "",
) -> list[str]:
    """The machine, each model, those whose p90 is far from the median.

    `command` is what to run again, `longer` the same with more time, if that can be said.
    """
    found = list(machine_doubts(around, command))
    for name, latency, one in zip(names, latencies, measured, strict=True):
        found += model_doubts(name, latency, one, around)
    widths = {name: _over_median(latency, 90) for name, latency in zip(names, latencies, strict=True)}
    worst = sorted(widths, key=lambda name: -widths[name])
    if wide := [f"{widths[name]:.2f} for {name}" for name in worst if widths[name] > _WIDE]:
        more = f" and {len(wide) - _SHOWN} more" if len(wide) > _SHOWN else ""
        names = f"{', '.join(wide[:_SHOWN])}{more}"
        then = f"time longer: {longer}" if longer else _again(command)
        found.append(f"p90 over median is {names}, above {_WIDE}; {advice(around, then)}")
    return found


def _again(command: str) -> str:
    return f"{RUN_AGAIN}: {command}" if command else RUN_AGAIN


def _over_median(latency: Latency, q: float) -> float:
    return latency.percentile_ms(q) / latency.p50_ms
