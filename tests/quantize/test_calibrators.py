from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeres.core.errors import InputError
from edgeres.quantize.calibrators import CALIBRATORS, Histogram, amax_from, entropy

numbers = st.floats(-1e4, 1e4, width=32).map(lambda x: x if abs(x) > 1e-20 else 0.0)
values = hnp.arrays(np.float32, st.integers(1, 300), elements=numbers)
methods = pytest.mark.parametrize("method", sorted(CALIBRATORS))


def histogram_of(x: np.ndarray) -> Histogram:
    histogram = Histogram("x")
    histogram.add(x)
    return histogram


def squared_error(x: np.ndarray, amax: float) -> float:
    scale = amax / 127
    return float(((np.clip(np.rint(x / scale), -127, 127) * scale - x) ** 2).mean())


def entropy_by_definition(counts: np.ndarray, width: float, stride: int) -> float:
    """Migacz 2017, slide 39, written out with loops."""
    used = int(np.flatnonzero(counts)[-1]) + 1
    best, best_kl = used, np.inf
    for i in [*range(128, used, stride), used]:
        p = counts[:i].astype(float)
        p[i - 1] += counts[i:].sum()
        q = np.zeros(i)
        for level in range(128):
            members = [b for b in range(i) if b * 128 // i == level and counts[b] > 0]
            for b in members:
                q[b] = sum(counts[m] for m in members) / len(members)
        if np.any((p > 0) & (q == 0)):
            continue
        p, q = p / p.sum(), q / q.sum()
        kl = sum(a * np.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)
        if kl <= best_kl:
            best, best_kl = i, kl
    return best * width


@methods
@settings(max_examples=40, deadline=None)
@given(x=values)
def test_no_bound_exceeds_the_largest_value_or_reaches_zero(method, x):
    histogram = histogram_of(x)
    amax = amax_from(histogram, method)
    assert 0 <= amax <= histogram.absmax
    assert (amax > 0) == (histogram.absmax > 0)


@methods
@settings(max_examples=20, deadline=None)
@given(x=values, exponent=st.integers(-20, 20))
def test_scaling_a_tensor_by_a_power_of_two_scales_its_bound(method, x, exponent):
    bound = amax_from(histogram_of(x), method)
    assert amax_from(histogram_of(np.ldexp(x, exponent)), method) == np.ldexp(bound, exponent)


@methods
def test_the_bound_of_a_constant_is_the_constant(method):
    assert amax_from(histogram_of(np.full(100, -0.3, np.float32)), method) == pytest.approx(0.3, rel=1e-3)


@methods
def test_a_tensor_of_zeros_has_the_bound_zero(method):
    assert amax_from(histogram_of(np.zeros(10, np.float32)), method) == 0


def test_minmax_is_exact():
    assert amax_from(histogram_of(np.float32([0.1, -7.7])), "minmax") == np.float32(7.7)


def test_percentile_covers_9999_of_10000_values():
    x = np.r_[np.linspace(0.5, 1, 99_990), np.full(10, 100.0)].astype(np.float32)
    assert amax_from(histogram_of(x), "percentile") == pytest.approx(1, abs=0.1)


def test_mse_is_near_the_best_of_all_bounds():
    x = np.random.default_rng(0).laplace(size=200_000).astype(np.float32)
    found = squared_error(x, amax_from(histogram_of(x), "mse"))
    best = min(squared_error(x, amax) for amax in np.linspace(1, np.abs(x).max(), 300))
    assert best <= found < 1.01 * best
    assert found < 0.8 * squared_error(x, float(np.abs(x).max()))


def test_sqnr_minimises_the_noise_its_model_predicts():
    x = np.random.default_rng(1).laplace(size=50_000).astype(np.float32)
    magnitude = np.abs(x).astype(np.float64)

    def noise(amax: float) -> float:
        inside = magnitude <= amax
        return (amax / 127) ** 2 / 12 * inside.sum() + ((magnitude[~inside] - amax) ** 2).sum()

    found = noise(amax_from(histogram_of(x), "sqnr"))
    best = min(noise(amax) for amax in np.linspace(0.1, magnitude.max(), 500))
    assert best / 1.005 <= found <= 1.005 * best


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.exhaustive) for seed in (1, 2))])
def test_entropy_equals_its_definition(seed):
    x = np.random.default_rng(seed).laplace(size=20_000).astype(np.float32)
    histogram = histogram_of(x)
    assert entropy(histogram) == entropy_by_definition(histogram.counts, histogram.width, stride=8)


def test_entropy_clips_a_lone_outlier():
    x = np.r_[np.random.default_rng(0).standard_normal(100_000), 40.0].astype(np.float32)
    assert amax_from(histogram_of(x), "entropy") < 10


def test_an_unknown_calibrator_is_guessed():
    with pytest.raises(InputError, match="did you mean entropy"):
        amax_from(histogram_of(np.ones(3, np.float32)), "entropie")
