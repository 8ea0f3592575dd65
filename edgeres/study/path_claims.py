"""What the gradients of paths say to Veit et al. 2016: all figures are made from magnitudes alone, without torch."""

from __future__ import annotations

import math

import numpy as np

from edgeres.core.config import Record
from edgeres.core.statistics import RESAMPLES, Interval, resampled_interval
from edgeres.study.outcomes import Floats
from edgeres.study.result import Claim, Row, judged

PAPER = "Veit, Wilber & Belongie 2016, arXiv 1605.06431, section 4.3, figure 6"
PAPER_MODULES = 54
ALMOST_ALL = 0.95  # of the gradient
GOOD_FIT = 0.9  # R2 of a straight line through the logarithms
MINORITY = 0.5  # of the paths
ROUNDING = 64 * np.finfo(float).eps  # of logarithm, power and fit; exact exponentials leave up to 4 eps
MIN_MODULES = 9  # fewer make too few lengths for a fit


class Effective(Record):
    """The shortest range of lengths that holds ALMOST_ALL of the gradient, and the share of all paths it holds."""

    shortest: int
    longest: int
    share_of_gradient: float
    share_of_paths: Interval


class Lengths(Record):
    """`factor` is what one more branch multiplies the magnitude with, by a fit of its logarithm; `r2` is the fit's.

    `effective_bound` goes by count times magnitude, as in the paper; `effective` by the exact shares. A row is about
    all paths through `length` branches: `magnitude` is the mean gradient norm at the images along one of them over the
    whole network's, with its 95 % interval over paths; `share_bound` is count times magnitude, as a share of the sum
    over lengths; `share` the exact share of the network's gradient.
    """

    draws: int
    factor: Interval
    r2: Interval
    mean_length: Interval
    effective_bound: Effective
    effective: Effective
    rows: tuple[Row, ...]


def lengths_of(magnitudes: Floats, shares: Floats, *, seed: int = 0) -> Lengths:
    """From magnitudes (n + 1, draws) of single paths by length and exact shares (n + 1,)."""
    n, draws = len(magnitudes) - 1, magnitudes.shape[1]
    generator = np.random.default_rng(seed)
    places = generator.integers(draws, size=(RESAMPLES, n + 1, draws))
    again = np.take_along_axis(magnitudes[None], places, axis=2).mean(2)
    means, counts = magnitudes.mean(1), path_counts(n)
    bounds, bounds_again = _normalised(counts * means), _normalised(counts * again)
    fits, lengths = np.asarray([exponential_fit(one) for one in again]), np.arange(n + 1)
    factor, r2 = exponential_fit(means)
    return Lengths(
        draws=draws,
        factor=resampled_interval(factor, fits[:, 0]),
        r2=resampled_interval(r2, fits[:, 1]),
        mean_length=resampled_interval(float(bounds @ lengths), bounds_again @ lengths),
        effective_bound=_effective(bounds, bounds_again),
        effective=_effective(shares, shares[None]),
        rows=tuple(
            {
                "length": k,
                "paths": math.comb(n, k),
                "share_of_paths": math.comb(n, k) / 2**n,
                "magnitude": float(means[k]),
                "magnitude_low": float(np.percentile(again[:, k], 2.5)),
                "magnitude_high": float(np.percentile(again[:, k], 97.5)),
                "share_bound": float(bounds[k]),
                "share": float(shares[k]),
            }
            for k in range(n + 1)
        ),
    )


def path_counts(n: int) -> Floats:
    """C(n, k) for k = 0 ... n."""
    return np.asarray([float(math.comb(n, k)) for k in range(n + 1)])


def exponential_fit(magnitudes: Floats) -> tuple[float, float]:
    """(factor per module, R2) of a least-squares line through the logarithms of magnitudes (n + 1,), zeros left out.

    A line that leaves nothing but rounding is exact, R2 1, also where all magnitudes are equal and R2 would be 0 / 0.
    """
    lengths = np.flatnonzero(magnitudes > 0)
    if len(lengths) < 3:
        return math.nan, math.nan
    logs = np.log(magnitudes[lengths])
    slope, intercept = np.polyfit(lengths, logs, 1)
    spread = float(((logs - logs.mean()) ** 2).sum())
    rests = np.abs(logs - slope * lengths - intercept)
    exact = rests.max() <= ROUNDING * max(1.0, np.abs(logs).max())
    return float(np.exp(slope)), 1.0 if exact else max(0.0, 1 - float((rests**2).sum()) / spread)


def shortest_range(shares: Floats, wanted: float = ALMOST_ALL) -> tuple[int, int]:
    """First and last of the fewest neighbouring lengths that hold `wanted` of the sum 1; the fullest, if several."""
    edges = np.concatenate([[0.0], np.cumsum(shares)])
    for width in range(1, len(shares) + 1):
        held = edges[width:] - edges[:-width]
        best = int(np.argmax(held))
        if held[best] >= wanted:
            return best, best + width - 1
    return 0, len(shares) - 1


def _effective(shares: Floats, again: Floats) -> Effective:
    first, last = shortest_range(shares)
    weights = path_counts(len(shares) - 1) / 2 ** (len(shares) - 1)
    held = [float(weights[a : b + 1].sum()) for a, b in map(shortest_range, again)]
    return Effective(
        shortest=first,
        longest=last,
        share_of_gradient=float(shares[first : last + 1].sum()),
        share_of_paths=resampled_interval(float(weights[first : last + 1].sum()), np.asarray(held)),
    )


def _normalised(values: Floats) -> Floats:
    result: Floats = values / values.sum(axis=-1, keepdims=True)
    return result


def claims_of(lengths: Lengths) -> tuple[Claim, ...]:
    """Exponential fall, and few short paths that carry almost everything."""
    return _falls_exponentially(lengths), _short_ones_carry(lengths)


def _falls_exponentially(lengths: Lengths) -> Claim:
    factor, r2 = lengths.factor, lengths.r2
    return Claim(
        claim="the gradient along a path falls exponentially with the number of modules it passes through",
        source=PAPER,
        verdict=judged(
            holds=factor.high < 1 and r2.low >= GOOD_FIT,
            fails=factor.low >= 1 or r2.high < GOOD_FIT,
            enough=len(lengths.rows) > MIN_MODULES,
        ),
        because=(
            f"each module more multiplies it by {factor.text()}, R2 of the exponential {r2.text()}, {lengths.draws}"
            f" paths of each of {len(lengths.rows)} lengths"
        ),
    )


def _short_ones_carry(lengths: Lengths) -> Claim:
    bound, exact, n = lengths.effective_bound, lengths.effective, len(lengths.rows) - 1
    held = bound.share_of_paths
    return Claim(
        claim="almost all of the gradient comes from few paths that are short",
        source=PAPER,
        verdict=judged(
            holds=held.high < MINORITY and lengths.mean_length.high < n / 2,
            fails=held.low >= MINORITY,
        ),
        because=(
            f"{100 * ALMOST_ALL:.0f} % of count times magnitude lies at lengths {bound.shortest} to {bound.longest},"
            f" {held.times(100).text('.3g')} % of all paths; of the gradient itself, where paths"
            f" may cancel, at {exact.shortest} to {exact.longest}, {100 * exact.share_of_paths.value:.3g} %; the paths'"
            f" mean length is {n / 2:g} and {lengths.mean_length.text('.1f')} weighted by gradient"
        ),
    )
