"""A slope is told from a cliff, and a run too small to tell says so."""

from __future__ import annotations

import numpy as np
import pytest

from edgeres.study.outcomes import Draw, Outcomes, is_smooth, rank_correlation, trend_of

IMAGES = 400


def _outcome(error_percent, seed=0):
    right = np.random.default_rng(seed).random(IMAGES) * 100 >= error_percent
    return Outcomes(right=right, loss=np.zeros(IMAGES), kl=np.zeros(IMAGES))


def _trend(errors, draws=5):
    """`errors[k]` per cent at level k; level 0 is the whole network."""
    return trend_of(
        _outcome(errors[0]),
        [
            Draw(level, float(level), _outcome(error, 10 * level + d))
            for level, error in enumerate(errors)
            for d in range(draws)
            if level
        ],
    )


def test_a_steady_rise_is_smooth():
    trend = _trend([5, 15, 25, 35, 45, 55, 65])
    verdict, because = is_smooth(trend)
    assert verdict == "supported"
    assert "over 30 networks" in because
    assert trend.rise_points.value == pytest.approx(60, abs=6)
    assert trend.levels[3].draws == 5
    assert trend.levels[3].error.low < 35 < trend.levels[3].error.high


@pytest.mark.parametrize("errors", [[5, 85, 86, 87, 88, 89], [60, 50, 40, 30, 20, 10]])
def test_a_cliff_or_a_fall_is_not(errors):
    assert is_smooth(_trend(errors))[0] == "not supported"


def test_two_levels_decide_nothing():
    verdict, because = is_smooth(_trend([5, 35, 60]))
    assert verdict == "undecided"
    assert "too few" in because


def test_noise_about_one_error_decides_nothing():
    assert is_smooth(_trend([20, 20, 20, 20, 20, 20], draws=3))[0] != "supported"


def test_a_network_that_nothing_disturbs_has_no_smooth_rise():
    trend = trend_of(_outcome(10), [Draw(k, float(k), _outcome(10)) for k in range(1, 6)])
    assert trend.rank_correlation.value == 0
    assert trend.steepest.value == 1
    assert is_smooth(trend)[0] == "not supported"


def test_rank_correlation_agrees_with_scipy_ties_included():
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(0)
    for _ in range(5):
        x, y = generator.integers(0, 6, 40).astype(float), generator.normal(size=40)
        assert rank_correlation(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)
    assert rank_correlation(np.arange(5.0), np.arange(5.0) ** 3) == pytest.approx(1)
    assert rank_correlation(np.arange(5.0), np.ones(5)) == 0
