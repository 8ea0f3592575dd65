"""Intervals over seeds and what may be concluded from them."""

from __future__ import annotations

import math

import pytest

from edgeres.study.result import by_seed, difference, mean_interval, points


def test_the_interval_of_three_seeds_is_students():
    interval = mean_interval([1.0, 2.0, 3.0])
    assert interval.value == 2.0
    assert interval.high - interval.value == pytest.approx(4.303 / math.sqrt(3), rel=1e-3)
    assert interval.value - interval.low == pytest.approx(interval.high - interval.value)


@pytest.mark.parametrize(("seeds", "quantile"), [(11, 2.228), (13, 2.179), (31, 2.042)])
def test_the_quantiles_go_on_beyond_the_table(seeds, quantile):
    values = [float(i) for i in range(seeds)]
    spread = math.sqrt(sum((v - (seeds - 1) / 2) ** 2 for v in values) / (seeds - 1))
    interval = mean_interval(values)
    assert (interval.high - interval.value) / (spread / math.sqrt(seeds)) == pytest.approx(quantile, rel=0.02)


def test_one_seed_has_no_interval():
    interval = mean_interval([5.0])
    assert (interval.low, interval.high) == (-math.inf, math.inf)
    assert "no interval" in points(interval)


def test_a_difference_is_paired_by_seed():
    interval = difference([11.0, 22.0, 33.0], [10.0, 21.0, 32.0])
    assert (interval.low, interval.value, interval.high) == (1.0, 1.0, 1.0)


def test_values_are_ordered_by_seed_and_chosen_by_kind():
    rows = [{"seed": 1, "kind": "a", "x": 10.0}, {"seed": 0, "kind": "a", "x": 5.0}, {"seed": 0, "kind": "b", "x": 1.0}]
    assert by_seed(rows, "x", kind="a") == [5.0, 10.0]
