"""Lengths of time as text."""

from __future__ import annotations

import pytest

from edgeres.core.errors import InputError
from edgeres.core.progress import seconds_from, text_from


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("3m", 180), ("1h", 3600), ("1h30m", 5400), ("0.5m", 30), (" 2 M 5 s", 125)],
)
def test_lengths_are_read_in_hours_minutes_and_seconds(text, seconds):
    assert seconds_from(text) == seconds


@pytest.mark.parametrize("text", ["", "3", "m", "3 days", "-3m", "0s", "3m1h", "1e9s", "3mm"])
def test_anything_else_is_refused_with_the_forms_that_are_not(text):
    with pytest.raises(InputError, match="is no length of time; write it as 90s, 3m or 1h30m"):
        seconds_from(text)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "1s"), (59.4, "59s"), (60, "1m"), (95, "1m35s"), (3600, "1h"), (5430, "1h30m")]
)
def test_lengths_are_written_in_the_form_they_are_read_in(seconds, text):
    assert text_from(seconds) == text
    seconds_from(text)
