"""Counts, fits, effective paths and verdicts, all in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgeres.core.metrics import Interval
from edgeres.study.paths import claims_of, exponential_fit, lengths_of, path_counts, shortest_range
from edgeres.study.result import numbers


def _lengths(n, factor, noise=0.02, draws=20):
    generator = np.random.default_rng(0)
    magnitudes = factor ** np.arange(n + 1.0)[:, None] * np.exp(generator.normal(0, noise, (n + 1, draws)))
    weights = path_counts(n) * factor ** np.arange(n + 1.0)
    return lengths_of(magnitudes, weights / weights.sum())


def test_there_are_two_to_the_n_paths_half_of_the_modules_long_on_average():
    counts = path_counts(54)
    assert counts.sum() == 2.0**54
    assert counts @ np.arange(55) / counts.sum() == pytest.approx(27)
    share = counts / counts.sum()
    assert share[19:36].sum() > 0.95  # the figure of the paper for 54 modules


def test_the_papers_effective_paths_follow_from_its_figures():
    lengths = _lengths(54, 0.24, noise=0)
    assert lengths.effective_bound.shortest == pytest.approx(5, abs=1)
    assert lengths.effective_bound.longest == pytest.approx(17, abs=2)
    assert lengths.effective_bound.share_of_paths.value < 0.01


def test_magnitudes_times_counts_are_binomial():
    lengths = _lengths(20, 0.5, noise=0)
    p = 0.5 / 1.5
    expected = [math.comb(20, k) * p**k * (1 - p) ** (20 - k) for k in range(21)]
    assert numbers(lengths.rows, "share_bound") == pytest.approx(expected)
    assert lengths.mean_length.value == pytest.approx(20 * p)
    assert sum(numbers(lengths.rows, "share")) == pytest.approx(1)


@given(st.floats(0.05, 1.5), st.floats(1e-3, 1e3))
@example(1.0, 45.0)
@example(1.0 + 1e-15, 45.0)
@example(1.0 + 1e-12, 1e-3)
def test_an_exponential_is_fitted_exactly(factor, scale):
    found, r2 = exponential_fit(scale * factor ** np.arange(12.0))
    assert found == pytest.approx(factor, rel=1e-6)
    assert r2 == pytest.approx(1, abs=1e-6)


def test_zeros_are_no_part_of_a_fit():
    assert exponential_fit(np.array([8.0, 4.0, 0.0, 1.0, 0.0]))[0] == pytest.approx(0.5)
    assert math.isnan(exponential_fit(np.array([8.0, 0.0, 0.0]))[0])


def test_the_shortest_range_holds_enough_and_no_shorter_one_does():
    shares = np.array([0.02, 0.2, 0.5, 0.2, 0.05, 0.03])
    assert shortest_range(shares, 0.89) == (1, 3)
    assert shortest_range(shares, 0.5) == (2, 2)
    assert shortest_range(shares, 0.9999999) == (0, 5)


def test_short_paths_with_an_exponential_fall_support_both_claims():
    verdicts = [claim.verdict for claim in claims_of(_lengths(27, 0.2))]
    assert verdicts == ["supported", "supported"]


def test_paths_that_all_carry_alike_support_neither():
    verdicts = [claim.verdict for claim in claims_of(_lengths(27, 1.0))]
    assert verdicts == ["not supported", "not supported"]


def test_three_modules_or_great_noise_decide_nothing():
    assert claims_of(_lengths(3, 0.2))[0].verdict == "undecided"
    lengths = _lengths(27, 0.2)
    wide = Interval(value=0.93, low=0.6, high=0.98)
    assert claims_of(lengths.model_copy(update={"r2": wide}))[0].verdict == "undecided"
    held = lengths.effective_bound.model_copy(update={"share_of_paths": Interval(value=0.4, low=0.1, high=0.7)})
    assert claims_of(lengths.model_copy(update={"effective_bound": held}))[1].verdict == "undecided"
