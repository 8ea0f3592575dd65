"""Several claims are as good as the weakest of them."""

from __future__ import annotations

import pytest

from edgeres.study.result import Claim, joined, judged, numbers


def _claims(*verdicts):
    return [Claim(claim="it is so", source="somebody", verdict=verdict, because="we saw") for verdict in verdicts]


@pytest.mark.parametrize(
    ("verdicts", "together"),
    [
        (("supported", "supported"), "supported"),
        (("supported", "undecided"), "undecided"),
        (("undecided", "not supported", "supported"), "not supported"),
    ],
)
def test_one_doubtful_claim_makes_all_doubtful(verdicts, together):
    assert joined(_claims(*verdicts), "a paper").verdict == together


def test_every_verdict_is_told_with_its_reason():
    claim = joined(_claims("supported", "undecided"), "a paper")
    assert claim.because == "supported: we saw; undecided: we saw"
    assert (claim.claim, claim.source) == ("it is so; it is so", "a paper")


@pytest.mark.parametrize(
    ("holds", "fails", "verdict"),
    [
        (True, False, "supported"),
        (False, True, "not supported"),
        (False, False, "undecided"),
        (True, True, "undecided"),
    ],
)
def test_a_verdict_needs_one_answer_from_enough_figures(holds, fails, verdict):
    assert judged(holds=holds, fails=fails) == verdict
    assert judged(holds=holds, fails=fails, enough=False) == "undecided"


def test_a_column_holds_numbers_alone():
    rows = ({"a": 1, "b": "x"}, {"a": 2.5, "b": 1})
    assert numbers(rows, "a") == [1.0, 2.5]
    with pytest.raises(TypeError, match="'x' is no number"):
        numbers(rows, "b")
