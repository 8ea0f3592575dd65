"""Labels in another order than the outputs' are told from a network that is poor, damaged or not trained."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeres.data import dataset_for
from edgeres.evaluate import stage
from edgeres.evaluate.order import doubts_of_order
from edgeres.evaluate.stage import EvalConfig, evaluate, guessed_by


def guesses(k: int, n: int, right: float, seed: int, order: np.ndarray | None = None) -> tuple[np.ndarray, list[str]]:
    """(guess, label) of n images in k classes, `right` of them right but for the `order` of the outputs."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, k, n)
    guess = np.where(random.random(n) < right, labels, random.integers(0, k, n))
    order = np.arange(k) if order is None else order
    return np.stack([order[guess], labels], 1), [f"class{i}" for i in range(k)]


@pytest.mark.parametrize(("k", "n", "right"), [(2, 400, 0.8), (5, 500, 0.4), (10, 1000, 0.5), (100, 8000, 0.6)])
def test_outputs_in_another_order_are_told_with_both_figures(k, n, right):
    table, names = guesses(k, n, right, 0, np.arange(k)[::-1])
    (said,) = doubts_of_order(table, names)
    share, other = (100 * np.mean(column == table[:, 1]) for column in (table[:, 0], k - 1 - table[:, 0]))
    assert said.startswith(f"{share:.2f} % are right, {other:.2f} % would be if")
    assert f"class{k - 1} for class0" in said
    assert not doubts_of_order(*guesses(k, n, right, 0))


def test_two_of_ten_classes_in_the_place_of_each_other_are_told():
    (said,) = doubts_of_order(*guesses(10, 1000, 0.9, 0, np.array([0, 1, 2, 5, 4, 3, 6, 7, 8, 9])))
    assert "(mostly it guesses class5 for class3, class3 for class5)" in said


@given(st.integers(0, 2**32 - 1), st.integers(2, 12), st.integers(1, 400), st.sampled_from([0.0, 0.1, 0.5]))
def test_a_network_that_guesses_or_is_poor_is_never_told_so(seed, k, n, right):
    assert not doubts_of_order(*guesses(k, n, right, seed))


@given(st.integers(0, 2**32 - 1), st.integers(2, 10))
def test_a_network_that_guesses_few_classes_is_not_told_so(seed, k):
    random = np.random.default_rng(seed)
    outputs = random.dirichlet(np.full(k, 0.3), size=k)  # of each class, whatever a damaged network makes of it
    outputs = 0.5 * outputs + 0.5 * outputs.mean(0)
    labels = random.integers(0, k, 2000)
    table = np.array([(random.choice(k, p=outputs[label]), label) for label in labels])
    told, own = doubts_of_order(table, [str(i) for i in range(k)]), {int(row.argmax()) for row in outputs}
    assert not told or len(own) >= 0.75 * k


def test_few_images_tell_nothing():
    assert not doubts_of_order(*guesses(5, 20, 0.6, 0, np.arange(5)[::-1]))
    assert not doubts_of_order(np.zeros((1, 2), int), ["a"])
    assert not doubts_of_order(np.zeros((1, 2), int), ["a"] * 10**6)


def test_an_evaluation_warns(checkpoint_of, spec_of, monkeypatch):
    checkpoint = checkpoint_of(spec_of())
    digits = dataset_for(checkpoint.spec, "digits")
    guess = guessed_by(checkpoint, digits).predictions[:, 0].astype(np.int64)
    for labels, is_told in ((guess, False), (9 - guess, True)):
        labelled = replace(digits, val=replace(digits.val, labels=labels))
        monkeypatch.setattr(stage, "dataset_for", lambda *_, dataset=labelled, **__: dataset)
        warnings = evaluate(checkpoint, EvalConfig(data="digits")).warnings
        assert any("import --labels" in warning for warning in warnings) is is_told
