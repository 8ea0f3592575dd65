from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeres.core.errors import InputError
from edgeres.quantize.calibrators import BINS, Histogram

numbers = st.floats(-1e6, 1e6, width=32).map(lambda x: x if abs(x) > 1e-20 else 0.0)
values = hnp.arrays(np.float32, st.integers(0, 200), elements=numbers)


def histogram_of(*parts: np.ndarray) -> Histogram:
    histogram = Histogram("x")
    for part in parts:
        histogram.add(part)
    return histogram


def same(a: Histogram, b: Histogram) -> bool:
    facts = [(h.exponent, h.zeros, h.minimum, h.maximum) for h in (a, b)]
    return facts[0] == facts[1] and np.array_equal(a.counts, b.counts)


@given(values)
def test_every_value_is_counted_in_its_bin(x):
    histogram = histogram_of(x)
    assert histogram.n == x.size
    magnitude = np.abs(x[x != 0]).astype(np.float64)
    expected = np.histogram(magnitude, BINS, (0, histogram.width * BINS))[0]
    assert np.array_equal(histogram.counts, expected)


@given(values, values)
def test_a_histogram_does_not_depend_on_the_pieces_nor_on_their_order(x, y):
    whole = histogram_of(np.concatenate([x, y]))
    assert same(whole, histogram_of(x, y))
    assert same(whole, histogram_of(y, x))


@given(values, st.integers(0, 60))
def test_widening_loses_no_count(x, exponent):
    histogram = histogram_of(x)
    before = histogram.n
    histogram.add(np.float32([2.0**exponent]))
    assert histogram.n == before + 1
    assert histogram.exponent > exponent


@given(values)
def test_extremes_are_exact_and_lie_in_the_last_used_bin(x):
    histogram = histogram_of(x)
    absmax = float(np.abs(x).max(initial=0))
    assert histogram.absmax == absmax
    if absmax > 0:
        assert (histogram.minimum, histogram.maximum) == (x.min(), x.max())
        assert histogram.counts[histogram.used - 1] > 0
        assert histogram.counts[histogram.used :].sum() == 0
        assert histogram.used > BINS // 2  # the range is never more than twice too wide


def test_zeros_are_counted_apart():
    histogram = histogram_of(np.float32([0.0, -0.0, 1.0]))
    assert (histogram.zeros, histogram.counts.sum(), histogram.n) == (2, 1, 3)


def test_a_tensor_of_zeros_has_no_range():
    histogram = histogram_of(np.zeros((4, 4), np.float32))
    assert (histogram.absmax, histogram.n, histogram.minimum, histogram.maximum) == (0.0, 16, 0.0, 0.0)


@pytest.mark.parametrize(("bad", "word"), [(np.nan, "NaN"), (np.inf, "infinite"), (-np.inf, "infinite")])
def test_values_that_are_no_numbers_are_refused_by_name(bad, word):
    with pytest.raises(InputError, match=f"'x' has {word} values"):
        histogram_of(np.float32([1.0, bad, 2.0]))


def test_the_input_is_left_alone():
    x = np.float32([-3.0, 2.0])
    histogram_of(x)
    assert x.tolist() == [-3.0, 2.0]
