"""How near outputs are to another network's: by formula, and in words."""

from __future__ import annotations

import numpy as np
import pytest

from edgeres.core.metrics import Closeness
from edgeres.evaluate.closeness import Nearness
from edgeres.report.wording import closeness_line, closeness_lines

RANDOM = np.random.default_rng(0)
A = RANDOM.standard_normal((300, 8)).astype(np.float32)
B = A + 0.2 * RANDOM.standard_normal((300, 8)).astype(np.float32)
OF = {"n": 300, "dataset": "images:x", "split": "val", "runtime": "torch", "artifact": "b", "reference": "a"}


def near(task, outputs, reference, parts=()) -> Closeness:
    counted = Nearness(task, parts)
    for part in (slice(0, 100), slice(100, None)):  # batches make no difference
        counted.add(outputs[part], reference[part])
    return counted.closeness(**{**OF, "n": len(outputs)})


def test_an_embedding_is_near_by_the_cosine_of_every_image() -> None:
    found = near("embedding", B, A)
    cosines = (A * B).sum(1) / np.linalg.norm(A, axis=1) / np.linalg.norm(B, axis=1)
    assert found.measure == "cosine"
    assert found.mean == pytest.approx(float(cosines.mean()))
    assert found.worst == pytest.approx(float(np.percentile(cosines, 1)))
    assert near("embedding", 7 * A, A).worst == pytest.approx(1)


def test_vectors_of_zeros_are_near_each_other_alone() -> None:
    zeros = np.zeros((300, 8), np.float32)
    assert near("embedding", zeros, zeros).mean == 1
    assert near("embedding", A, zeros).mean == 0


def test_tensors_are_near_by_the_error_over_the_mean_power() -> None:
    found = near("tensors", B.reshape(300, 2, 4), A.reshape(300, 2, 4))
    errors = np.square(A.astype(np.float64) - B).sum(1) / np.square(A.astype(np.float64)).sum(1).mean()
    assert found.measure == "error"
    assert found.mean == pytest.approx(errors.mean())
    assert found.worst == pytest.approx(np.percentile(errors, 99))


def test_several_outputs_are_near_by_the_mean_of_their_errors() -> None:
    scale = np.array([1e-3] * 3 + [1e3] * 5, np.float32)
    found = near("tensors", scale * B, scale * A, (("scores", 3), ("boxes", 5)))
    a, b = A.astype(np.float64), B.astype(np.float64)
    each = [np.square(a - b)[:, of].sum(1) / np.square(a)[:, of].sum(1).mean() for of in (slice(3), slice(3, None))]
    assert found.parts == pytest.approx({"scores": each[0].mean(), "boxes": each[1].mean()})
    assert found.mean == pytest.approx(np.mean(each))
    assert found.worst == pytest.approx(np.percentile(np.mean(each, 0), 99))
    assert f"(scores {each[0].mean():.5f}, boxes {each[1].mean():.5f})" in closeness_line(found)
    assert "parts" not in near("tensors", B, A).model_dump()


def test_scores_of_images_without_labels_are_near_by_their_first_guess() -> None:
    found = near("classes", B, A)
    assert (found.measure, found.worst) == ("guess", None)
    assert found.mean == pytest.approx((A.argmax(1) == B.argmax(1)).mean())


@pytest.mark.parametrize(
    ("values", "line", "cell"),
    [
        (
            {"measure": "cosine", "mean": 0.98765, "worst": 0.9},
            "cosine 0.98765, 1 in 100 < 0.90000 to the network it comes from, n = 300, images:x val, torch",
            ("cosine 0.98765", "1 in 100 < 0.90000", "n = 300"),
        ),
        (
            {"measure": "error", "mean": 0.0123, "worst": 0.2},
            "rel. error 0.01230, 1 in 100 > 0.20000 to the network it comes from, n = 300, images:x val, torch",
            ("rel. error 0.01230", "1 in 100 > 0.20000", "n = 300"),
        ),
        (
            {"measure": "guess", "mean": 0.97, "worst": None},
            "same guess 97.00 %, [94.40, 98.41] to the network it comes from, n = 300, images:x val, torch",
            ("same guess 97.00 %", "[94.40, 98.41]", "n = 300"),
        ),
        (
            {"measure": "cosine", "mean": 1.0, "worst": 1.0, "artifact": "a"},
            "kept as what later networks are held against (cosine), n = 300, images:x val, torch",
            ("reference", "n = 300"),
        ),
    ],
)
def test_closeness_in_words(values, line, cell) -> None:
    one = Closeness(**{**OF, **values})
    assert closeness_line(one) == line
    assert closeness_lines(one) == cell
