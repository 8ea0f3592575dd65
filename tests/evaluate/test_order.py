"""Labels in another order than the outputs' are told from a network that is poor, damaged or not trained."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgeres.data import dataset_for
from edgeres.evaluate import stage
from edgeres.evaluate.stage import EvalConfig, doubts_of, doubts_of_order, evaluate, guessed_by


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
    assert re.search(rf"class{k - 1} for class0[,)]", said) or k > 3
    assert not doubts_of_order(*guesses(k, n, right, 0))


def test_two_of_ten_classes_in_the_place_of_each_other_are_told():
    (said,) = doubts_of_order(*guesses(10, 1000, 0.9, 0, np.array([0, 1, 2, 5, 4, 3, 6, 7, 8, 9])))
    assert re.search(r"\((class5 for class3, class3 for class5|class3 for class5, class5 for class3)\)", said)


@given(st.integers(0, 2**32 - 1), st.integers(2, 12), st.integers(1, 400), st.sampled_from([0.0, 0.1, 0.5]))
def test_a_network_that_guesses_or_is_poor_is_never_told_so(seed, k, n, right):
    assert not doubts_of_order(*guesses(k, n, right, seed))


@given(st.integers(0, 2**32 - 1), st.integers(2, 10))
def test_a_damaged_network_that_tells_classes_badly_apart_is_not_told_so(seed, k):
    random = np.random.default_rng(seed)
    own, common = random.dirichlet(np.full(k, 0.3), size=k), random.dirichlet(np.full(k, 0.3))
    labels, share = random.integers(0, k, 1000), 0.2  # of what it guesses that the class decides
    table = np.array([(random.choice(k, p=share * own[label] + (1 - share) * common), label) for label in labels])
    assert not doubts_of_order(table, [str(i) for i in range(k)])


@example(0, 2, 1)  # images of one class only
@given(st.integers(0, 2**32 - 1), st.integers(2, 10), st.integers(0, 9))
def test_one_guess_for_all_is_not_another_order_however_many_images_a_class_has(seed, k, guess):
    random = np.random.default_rng(seed)
    labels = random.choice(k, 1000, p=random.dirichlet(np.full(k, 0.3)))
    assert not doubts_of_order(np.stack([np.full(1000, guess % k), labels], 1), [str(i) for i in range(k)])


def test_a_poor_network_in_reverse_is_told():
    right = [
        [55, 37, 37, 207, 164],
        [0, 86, 305, 14, 95],
        [0, 25, 399, 2, 74],
        [5, 16, 14, 303, 162],
        [0, 11, 21, 53, 415],
    ]
    cells = [(guess, label) for label, row in enumerate(right) for guess, count in enumerate(row) for _ in range(count)]
    names = ["airplane", "cat", "frog", "ship", "truck"]
    assert not doubts_of_order(np.array(cells), names)
    (said,) = doubts_of_order(np.array([(4 - guess, label) for guess, label in cells]), names)
    assert said.startswith("23.72 % are right, 50.32 % would be if outputs stood for other classes (airplane for truck")


def test_one_guess_for_images_of_several_classes_is_told():
    labels = np.arange(100) % 4
    (said,) = doubts_of(np.stack([np.full(100, 2), labels], 1), list("abcd"))
    assert said == "all 100 images are called c: it is damaged, wrongly fed or not trained"
    assert not doubts_of(np.stack([labels, labels], 1), list("abcd"))
    assert not doubts_of(np.full((4, 2), 1), list("abcd"))  # few images, of one class


@pytest.mark.parametrize(("n", "is_told"), [(100, True), (16, False)])
def test_classes_without_images_are_told_unless_images_are_few(n, is_told):
    labels = np.arange(n) % 3
    found = doubts_of(np.stack([labels, labels], 1), list("abcd"))
    assert found == [f"none of the {n} images is of d"] * is_told


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
