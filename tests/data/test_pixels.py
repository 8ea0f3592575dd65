from __future__ import annotations

import threading
import time

import pytest

from edgeres.data.pixels import in_threads


def test_results_come_in_order_whatever_thread_is_first() -> None:
    def slow_if_even(i: int) -> int:
        time.sleep(0.01 * (i % 2 == 0))
        return i

    assert list(in_threads(slow_if_even, range(30), workers=4)) == list(range(30))


def test_no_more_is_read_than_the_threads_can_hold() -> None:
    taken = []

    def items():
        for i in range(1000):
            taken.append(i)
            yield i

    results = in_threads(lambda i: i, items(), workers=2)
    for _ in range(10):
        next(results)
    assert len(taken) <= 10 + 4 * 2
    results.close()


def test_an_error_reaches_the_consumer_and_ends_the_threads() -> None:
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError):
        list(in_threads(lambda i: 1 // (5 - i), range(100), workers=3))
    assert threading.active_count() == before
