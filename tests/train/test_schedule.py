from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeres.train.plan import rate_at


@given(st.integers(1, 500), st.integers(0, 100), st.sampled_from(["cosine", "step"]))
def test_the_rate_rises_in_the_warm_up_and_never_after(steps: int, warmup: int, kind: str) -> None:
    rates = [rate_at(step, steps=steps, warmup=min(warmup, steps), kind=kind) for step in range(steps)]
    top = min(warmup, steps)
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert all(0 < rate <= 1 for rate in rates)


def test_cosine_is_one_half_in_the_middle_and_ends_near_zero() -> None:
    assert rate_at(60, steps=110, warmup=10, kind="cosine") == pytest.approx(0.5)
    assert rate_at(109, steps=110, warmup=10, kind="cosine") == pytest.approx((1 + math.cos(math.pi * 0.99)) / 2)


def test_step_divides_by_ten_at_a_half_and_three_quarters() -> None:
    rates = [rate_at(step, steps=64, warmup=0, kind="step") for step in (0, 31, 32, 47, 48, 63)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
