"""Several claims are as good as the weakest of them."""

from __future__ import annotations

import pytest

from edgeres.core.statistics import Interval
from edgeres.study.claims import Claim, in_words, numbers, range_of, weakest


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
    assert weakest(_claims(*verdicts)) == together


def test_every_verdict_is_told_with_its_reason():
    assert in_words(_claims("supported", "undecided")) == "supported: we saw; undecided: we saw"


def test_an_interval_reads_as_figure_and_bounds():
    assert range_of(Interval(value=0.5, low=0.25, high=1), 1) == "0.5 [0.2, 1.0]"


def test_a_column_leaves_its_gaps_out():
    assert numbers(({"a": 1, "b": "x"}, {"a": None}, {"a": 2.5}), "a") == [1.0, 2.5]
