import random

import numpy as np
import pytest

from edgeres.core.metrics import Latency
from edgeres.costs.design import (
    design,
    fitted,
    median_ms,
    pooled,
    row_of,
    shape_classes,
)

CLASSES = {
    "a": tuple(f"layer1.{i}" for i in range(9)),
    "b": ("layer2.0",),
    "c": tuple(f"layer2.{i}" for i in range(1, 9)),
}
SAVED = np.array([0.08, 0.05, 0.09])
WHOLE = 2.3


def latency(rounds_ms, session="s"):
    return Latency(
        samples_ms=tuple(sample for samples in rounds_ms for sample in samples),
        rounds=tuple(len(samples) for samples in rounds_ms),
        batch=1,
        runtime="fake",
        threads=1,
        session=session,
        artifact="0",
        warmup=1,
        machine="m",
    )


def latency_of(names):
    return float(np.dot(row_of(CLASSES, names), [WHOLE, *SAVED]))


def test_over_the_networks_every_class_takes_every_level_from_none_to_two_thirds():
    sets = design(CLASSES, networks=7, seed=0)
    assert sorted(sum(name in CLASSES["a"] for name in names) for names in sets) == list(range(7))
    assert sum("layer2.0" in names for names in sets) == 3
    assert all(len(set(names)) == len(names) for names in sets)
    assert sets == design(CLASSES, networks=7, seed=0) != design(CLASSES, networks=7, seed=1)


def test_classes_are_not_dropped_in_step_with_each_other():
    rows = np.array([row_of(CLASSES, names)[1:] for names in design(CLASSES, networks=12, seed=0)])
    assert abs(np.corrcoef(rows.T)[np.triu_indices(3, 1)]).max() < 0.35


def test_savings_that_add_up_are_found_exactly():
    sets = [(), (), *design(CLASSES, networks=8, seed=0)]
    fit = fitted(CLASSES, sets, [latency_of(names) for names in sets])
    assert fit.coefficients == pytest.approx([WHOLE, *SAVED])
    assert fit.error == pytest.approx(0, abs=1e-9)
    assert fit.degrees == 10 - 4


def test_the_intervals_hold_the_truth_about_as_often_as_they_say():
    generator = np.random.default_rng(0)
    sets = [(), (), *design(CLASSES, networks=10, seed=0)]
    exact = np.array([latency_of(names) for names in sets])
    hits = 0
    for _ in range(300):
        fit = fitted(CLASSES, sets, exact * (1 + 0.01 * generator.standard_normal(len(sets))))
        saved = fit.interval(1)
        hits += saved.low <= SAVED[0] <= saved.high
    assert 0.91 < hits / 300 < 0.985


def test_a_design_beats_the_difference_to_the_network_without_one_module():
    """The reason for the design: the same noise of each network, a fifth of the error of a prediction and less."""
    generator, draw = np.random.default_rng(0), random.Random(0)
    modules = [name for names in CLASSES.values() for name in names]
    sets = [(), (), *design(CLASSES, networks=8, seed=0)]
    by_design, by_single = [], []
    for _ in range(200):
        noisy = [latency_of(names) * (1 + 0.01 * generator.standard_normal()) for names in sets]
        fit = fitted(CLASSES, sets, noisy)
        singles = {n: noisy[0] - latency_of((n,)) * (1 + 0.01 * generator.standard_normal()) for n in modules}
        dropped = draw.sample(modules, 8)
        truth = latency_of(dropped)
        by_design.append(np.dot(row_of(CLASSES, dropped), fit.coefficients) / truth - 1)
        by_single.append((noisy[0] - sum(singles[name] for name in dropped)) / truth - 1)
    assert np.std(by_design) < np.std(by_single) / 5


def test_copies_of_a_network_are_pooled_round_by_round():
    both = pooled([latency([[1.0, 2.0], [3.0]]), latency([[4.0], [5.0]])])
    assert both.samples_ms == (1.0, 2.0, 4.0, 3.0, 5.0)
    assert both.rounds == (3, 2)


def test_a_round_counts_once_however_many_calls_it_had():
    assert median_ms(latency([[1.0] * 50, [2.0], [3.0]])) == 2.0


def test_modules_of_one_shape_are_one_class_and_dropped_ones_none(spec_of):
    spec = spec_of("resnet20").without(("layer1.1", "layer2.0"))
    assert shape_classes(spec) == {
        "identity 16x8x8 to 16x8x8": ("layer1.0", "layer1.2"),
        "identity 32x4x4 to 32x4x4": ("layer2.1", "layer2.2"),
        "projection 32x4x4 to 64x2x2": ("layer3.0",),
        "identity 64x2x2 to 64x2x2": ("layer3.1", "layer3.2"),
    }
