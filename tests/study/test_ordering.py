"""The ordering study: paired differences from the original ordering."""

from __future__ import annotations

import pytest

from edgeres.core.config import record_from_json
from edgeres.core.errors import InputError
from edgeres.models.family import ORDERINGS
from edgeres.study.ordering import PUBLISHED_ERROR_PERCENT, OrderingConfig, compared, ordering
from edgeres.study.result import Study


def rows_with(**shifts):
    """Made-up test errors over three seeds: the original's plus each ordering's shift, with some spread."""
    return [
        {"ordering": order, "seed": seed, "test_error_percent": 5.0 + seed + shift * (1 + 0.01 * seed)}
        for order in ORDERINGS
        for shift in [shifts.get(order.replace("-", "_"), 0.0)]
        for seed in range(3)
    ]


def test_all_three_signs_are_needed_for_support():
    claim, differences = compared(rows_with(bn_after_add=2.0, relu_before_add=1.0, full_preact=-1.0))
    assert claim.verdict == "supported"
    assert differences["bn-after-add"].value == pytest.approx(2.02)
    assert "3 of each" in claim.because


def test_one_clear_contradiction_is_enough_against():
    assert compared(rows_with(bn_after_add=2.0, relu_before_add=1.0, full_preact=1.0))[0].verdict == "not supported"


def test_a_difference_of_nothing_decides_nothing():
    assert compared(rows_with(bn_after_add=2.0, relu_before_add=1.0))[0].verdict == "undecided"


def test_the_study_shows_the_published_errors_beside_its_own(tmp_path):
    result = ordering(None, OrderingConfig(depth=8, epochs=1, batch=256, seeds=1), tmp_path)
    study = record_from_json(Study, result.output.path)
    assert [row["ordering"] for row in study.rows] == list(ORDERINGS)
    assert study.summary["published_error_percent"] == PUBLISHED_ERROR_PERCENT
    assert len({row["train_loss"] for row in study.rows}) == 5
    assert study.verdict == "undecided"
    assert (tmp_path / "study.csv").exists()
    assert (tmp_path / "study.svg").exists()


def test_a_depth_that_does_not_exist_is_refused():
    with pytest.raises(InputError, match="depth 6n"):
        OrderingConfig(depth=21).check()
