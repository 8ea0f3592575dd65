import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeres.core import statistics
from edgeres.core.errors import InputError
from edgeres.core.metrics import Interval, Latency
from edgeres.core.statistics import (
    calls_needed,
    check_comparable,
    percentile_interval,
    rate_interval,
    ratio_interval,
    round_medians,
    spread_ms,
    t_95,
)


def latency_from(rounds, **changes):
    fields = {
        "samples_ms": tuple(float(sample) for samples in rounds for sample in samples),
        "rounds": tuple(len(samples) for samples in rounds),
        "batch": 1,
        "runtime": "fake",
        "threads": 1,
        "session": "s",
        "artifact": "a",
        "warmup": 10,
        "machine": "m",
    }
    return Latency(**(fields | changes))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.floats(0.01, 100), min_size=1, max_size=5), min_size=1, max_size=12),
    st.integers(0, 100),
)
def test_an_interval_encloses_its_figure_and_stays_within_the_samples(rounds, q):
    latency = latency_from(rounds)
    interval = percentile_interval(latency, q)
    assert interval.low <= interval.value <= interval.high
    assert min(latency.samples_ms) <= interval.low <= interval.high <= max(latency.samples_ms)


def test_constant_samples_have_an_interval_of_no_width():
    interval = percentile_interval(latency_from([[2.0] * 10] * 10), 50)
    assert (interval.value, interval.low, interval.high) == (2.0, 2.0, 2.0)


def test_the_interval_of_a_median_covers_the_truth_about_95_times_of_100():
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        interval = percentile_interval(latency_from(generator.exponential(size=(20, 5))), 50)
        covered += interval.low <= np.log(2) <= interval.high
    assert 0.88 * 200 <= covered <= 200


def test_samples_that_move_together_in_a_round_widen_the_interval():
    speeds = np.random.default_rng(2).normal(10, 1, size=(20, 1)) * np.ones((20, 50))
    by_round = percentile_interval(latency_from(speeds), 50)
    by_call = percentile_interval(latency_from(speeds).model_copy(update={"rounds": ()}), 50)
    assert by_round.high - by_round.low > 2 * (by_call.high - by_call.low)


def test_what_slows_a_round_of_both_models_cancels_in_their_ratio():
    generator = np.random.default_rng(3)
    disturbance = generator.uniform(1, 2, size=(20, 1)) * np.ones((20, 30))
    before, after = latency_from(10 * disturbance), latency_from(5 * disturbance)
    alone, ratio = percentile_interval(before, 50), ratio_interval(before, after)
    assert ratio.value == pytest.approx(0.5)
    assert ratio.high - ratio.low < 1e-9 < alone.high - alone.low


def test_the_same_samples_give_the_same_interval():
    latency = latency_from(np.random.default_rng(4).exponential(size=(10, 10)))
    assert percentile_interval(latency, 99) == percentile_interval(latency, 99)
    assert percentile_interval(latency, 50, seed=1) != percentile_interval(latency, 50, seed=2)


@pytest.mark.parametrize(("name", "value"), [("session", "t"), ("machine", "n"), ("batch", 8), ("threads", 2)])
def test_latencies_of_different_conditions_are_not_compared(name, value):
    one = latency_from([[1.0]])
    with pytest.raises(InputError, match=f"latencies of {name} .* cannot be compared"):
        ratio_interval(one, latency_from([[1.0]], **{name: value}))


def test_another_runtime_may_be_compared():
    check_comparable(latency_from([[1.0]]), latency_from([[1.0]], runtime="other", artifact="b"))


def test_the_spread_is_the_distance_between_the_quartiles():
    assert spread_ms(latency_from([[1, 2, 3, 4, 5]])) == 2


@pytest.mark.parametrize(
    ("degrees", "expected"), [(1, 12.706), (5, 2.571), (10, 2.228), (11, 2.201), (30, 2.042), (10_000, 1.960)]
)
def test_students_t_as_tabled(degrees, expected):
    assert t_95(degrees) == pytest.approx(expected, rel=0.001)


@pytest.mark.parametrize(("q", "calls"), [(50, 6), (90, 36), (95, 72), (99, 368), (1, 368)])
def test_a_percentile_takes_so_many_calls_that_the_slowest_is_hardly_ever_below_it(q, calls):
    tail = max(q, 100 - q) / 100
    assert calls_needed(q) == calls
    assert tail**calls <= 0.025 < tail ** (calls - 1)


def test_images_a_second_turn_the_interval_around():
    latency = latency_from(np.random.default_rng(5).uniform(1, 2, size=(10, 10)), batch=4)
    median, rate = percentile_interval(latency, 50), rate_interval(latency)
    assert rate.value == pytest.approx(4000 / median.value)
    assert (rate.low, rate.high) == pytest.approx((4000 / median.high, 4000 / median.low))


def test_precision_is_the_wider_side():
    assert Interval(value=10.0, low=9.8, high=10.1).precision == pytest.approx(0.02)


def test_round_medians_are_those_of_the_rounds_or_of_all_calls():
    assert round_medians(latency_from([[1, 2, 3], [7], [4, 6]])).tolist() == [2, 7, 5]
    assert round_medians(latency_from([[1, 2, 3]]).model_copy(update={"rounds": ()})).tolist() == [2]


def test_an_interval_does_not_depend_on_how_many_resamples_fit_into_memory(monkeypatch):
    latency = latency_from(np.random.default_rng(6).exponential(size=(10, 10)))
    whole = percentile_interval(latency, 90)
    monkeypatch.setattr(statistics, "_AT_ONCE", 700)
    assert percentile_interval(latency, 90) == whole


@pytest.mark.parametrize(
    ("interval", "style", "unit", "text"),
    [
        (Interval(value=0.5, low=0.25, high=1), ".1f", "", "0.5 [0.2, 1.0]"),
        (Interval(value=1.2, low=-0.3, high=2.7), "+.2f", "points", "+1.20 points (-0.30 to +2.70)"),
        (Interval(value=1, low=-math.inf, high=math.inf), ".0f", "points", "1 points (one seed, no interval)"),
    ],
)
def test_an_interval_reads_as_figure_and_bounds(interval, style, unit, text):
    assert interval.text(style, unit) == text


def test_rounding_never_makes_an_interval_an_exact_figure():
    narrow = Interval(value=1.89, low=1.8896, high=1.8904)
    assert narrow.text() == "1.8900 [1.8896, 1.8904]"
    assert narrow.bounds(".2f") == "95 %: 1.8896 to 1.8904"
    assert narrow.plus_minus() == "1.8900 ± 0.0004"
    assert Interval.around(1.89).bounds(".2f") == "95 %: 1.89 to 1.89"
