"""Intervals cover what they promise; percentiles are percentiles."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeres.core.metrics import decibels, difference_of, paired_difference, wilson


@pytest.mark.parametrize(
    ("signal", "noise", "db"),
    [(1000, 1, 30), (1, 10, -10), (1, 0, math.inf), (0, 0, math.inf), (0, 1, -math.inf), (1, math.inf, -math.inf)],
)
def test_decibels_are_a_number_or_infinite_whatever_the_powers(signal, noise, db):
    assert decibels(signal, noise) == pytest.approx(db)
    assert decibels(signal, math.nan) == -math.inf


@given(st.integers(1, 5000), st.data())
def test_wilson_holds_the_estimate_and_stays_in_bounds(n, data):
    k = data.draw(st.integers(0, n))
    interval = wilson(k, n)
    assert 0 <= interval.low <= interval.value == k / n <= interval.high <= 1


def test_wilson_equals_the_textbook():
    # Agresti 2013, section 1.4.2: 0 of 25 gives (0, 0.133)
    interval = wilson(0, 25)
    assert interval.low == 0
    assert interval.high == pytest.approx(0.133, abs=5e-4)


def test_wilson_covers_95_percent():
    generator = np.random.default_rng(0)
    counts = generator.binomial(500, 0.9, 4000)
    covered = [one.low <= 0.9 <= one.high for one in (wilson(int(k), 500) for k in counts)]
    assert 0.935 < np.mean(covered) < 0.965


def test_a_paired_interval_is_narrower_and_covers():
    generator = np.random.default_rng(1)
    covered = []
    for _ in range(500):
        before = generator.random(1000) < 0.9
        flips = generator.random(1000)
        after = np.where(before, flips > 0.02, flips < 0.1)
        difference, half = paired_difference(before.tolist(), after.tolist())
        covered.append(abs(difference - (0.1 * 0.1 - 0.9 * 0.02)) <= half)
        assert half < (wilson(900, 1000).high - wilson(900, 1000).low)
    assert np.mean(covered) > 0.92


@pytest.mark.parametrize("apart", [1, 2, 5, 10, 20, 50])
def test_of_two_that_are_equally_often_right_one_is_called_better_in_a_twentieth_of_cases_at_most(apart):
    rate, counts = apart / 2, range(apart + 60)  # of each kind, which is Poisson's where they are few among many
    odds = [math.exp(k * math.log(rate) - rate - math.lgamma(k + 1)) for k in counts]
    called = {
        (a, b) for a in counts for b in counts if abs((found := difference_of(10**5, lost=a, gained=b))[0]) > found[1]
    }
    assert math.fsum(odds[a] * odds[b] for a, b in called) < 0.05
    assert (5, 0) in called


def test_identical_answers_differ_by_nothing_within_less_the_more_images_there_are():
    few, many = (paired_difference([True] * n, [True] * n) for n in (50, 5000))
    assert few[0] == many[0] == 0
    assert 0 < many[1] < few[1] < 0.05
