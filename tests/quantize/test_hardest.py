import numpy as np
import pytest

from edgeres.quantize.calibrators import CALIBRATORS, SHOWN, Histogram, amax_from, hardest, sqnr_db


def histogram_of(values, name="x"):
    histogram = Histogram(name)
    histogram.add(np.asarray(values, np.float32))
    return histogram


@pytest.fixture
def normal():
    return np.random.default_rng(0).standard_normal(50_000)


def rows_for(**values):
    histograms = {name: histogram_of(one, name) for name, one in values.items()}
    amax = {name: {m: amax_from(one, m) for m in CALIBRATORS} for name, one in histograms.items()}
    return hardest(histograms, amax)


def test_the_sqnr_is_that_of_quantizing_the_values_themselves(normal):
    bound = 3.0
    quantized = np.clip(np.rint(normal / (bound / 127)), -127, 127) * (bound / 127)
    exact = 10 * np.log10((normal**2).sum() / ((normal - quantized) ** 2).sum())
    assert sqnr_db(histogram_of(normal), bound) == pytest.approx(exact, abs=0.1)


def test_a_tensor_with_far_outliers_comes_before_a_smooth_one(normal):
    spiky = np.append(normal, [400.0, -500.0])
    assert [row["tensor"] for row in rows_for(smooth=normal, spiky=spiky)] == ["spiky", "smooth"]


def test_every_value_but_zeros_is_in_the_drawn_histogram(normal):
    (row,) = rows_for(x=np.append(normal, np.zeros(7)))
    assert sum(row["counts"]) == 50_000
    assert (row["zeros"], row["n"]) == (7, 50_007)
    assert row["top"] == pytest.approx(np.abs(normal).max())


def test_a_tensor_that_is_always_zero_is_left_out(normal):
    assert [row["tensor"] for row in rows_for(dead=np.zeros(9), x=normal)] == ["x"]


def test_no_more_tensors_are_kept_than_are_shown(normal):
    many = {f"t{place}": normal * place for place in range(1, SHOWN + 4)}
    assert len(rows_for(**many)) == SHOWN


def test_a_bound_of_zero_has_no_sqnr(normal):
    assert sqnr_db(histogram_of(normal), 0.0) is None
