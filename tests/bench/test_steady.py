import numpy as np
import pytest

from edgeres.bench.validity import MIN_ROUNDS, change_in, level_of, modified_z, outliers_in
from edgeres.core.metrics import Latency


def latency_from(rounds):
    return Latency(
        samples_ms=tuple(float(sample) for samples in rounds for sample in samples),
        rounds=tuple(len(samples) for samples in rounds),
        batch=1,
        runtime="fake",
        threads=1,
        session="s",
        artifact="a",
        warmup=1,
        machine="m",
    )


def noise(rounds=20, calls=9, seed=0):
    return 1 + 0.01 * np.random.default_rng(seed).standard_normal((rounds, calls))


def test_pettitts_statistic_as_counted_by_hand():
    """1 2 | 3 4: after the second, all four pairs rise, K = 4; p = 2 exp(-96 / 80)."""
    found = change_in(np.array([1.0, 2.0, 3.0, 4.0]))
    assert found.after_round == 2
    assert found.p_value == pytest.approx(2 * np.exp(-96 / 80))
    assert found.ratio == pytest.approx(3.5 / 1.5)


def test_ties_are_no_change():
    found = change_in(np.ones(20))
    assert found.p_value == 1
    assert found.is_steady


def test_a_change_in_the_middle_is_found_where_it_was():
    rounds = noise() * np.where(np.arange(20) < 11, 1, 1.3)[:, None]
    found = level_of(latency_from(rounds))
    assert not found.is_steady
    assert found.after_round == 11
    assert found.ratio == pytest.approx(1.3, rel=0.02)


def test_undisturbed_rounds_are_steady():
    assert all(level_of(latency_from(noise(seed=seed))).is_steady for seed in range(50))


def test_a_false_alarm_of_the_test_alone_is_rare():
    alarms = sum(change_in(np.median(noise(seed=seed), axis=1)).p_value < 0.05 for seed in range(200))
    assert alarms <= 0.08 * 200


def test_a_change_too_small_to_matter_is_none():
    rounds = noise() * np.where(np.arange(20) < 10, 1, 1.02)[:, None]
    found = level_of(latency_from(rounds))
    assert found.p_value < 0.01
    assert found.is_steady


def test_too_few_rounds_tell_nothing_however_far_apart():
    halves = np.arange(MIN_ROUNDS - 1) >= (MIN_ROUNDS - 1) // 2
    assert level_of(latency_from(noise(rounds=MIN_ROUNDS - 1))) is None
    assert change_in(1.0 + halves).p_value > 0.01
    assert change_in(1.0 + (np.arange(MIN_ROUNDS) >= MIN_ROUNDS // 2)).p_value < 0.01


def test_stray_calls_are_counted_on_the_side_they_stray_to():
    rounds = noise()
    rounds[3, 2] = rounds[7, 1] = 3.0
    rounds[5, 0] = 0.3
    found = outliers_in(latency_from(rounds))
    assert (found.slow, found.fast, found.calls) == (2, 1, 180)
    assert found.share == pytest.approx(3 / 180)


def test_a_drift_is_no_outlier():
    rounds = noise() * np.linspace(1, 3, 20)[:, None]
    assert outliers_in(latency_from(rounds)).share < 0.02


def test_the_modified_z_score_as_defined():
    """Median 3, MAD 1: the value 100 is 0.6745 * 97 away."""
    assert modified_z(np.array([1.0, 2, 3, 4, 100])) == pytest.approx([-1.349, -0.6745, 0, 0.6745, 65.4265])


def test_equal_calls_hold_no_outlier_and_one_among_them_is_one():
    assert outliers_in(latency_from([[2.0] * 5] * 5)).share == 0
    assert outliers_in(latency_from([[2.0] * 10, [2.0] * 9 + [50.0]])).slow == 1
