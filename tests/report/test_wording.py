import pytest

from edgeres.core.metrics import Accuracy, Interval
from edgeres.report.figures import Change, Changes
from edgeres.report.wording import (
    accuracy_line,
    changes_text,
    count,
    interval_lines,
    milliseconds,
    points,
    signed,
    size,
    speed,
    top1_lines,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (999, "999"), (1000, "1.00 k"), (269_722, "270 k"), (4_089_284_608, "4.09 G")],
)
def test_counts_have_three_digits(value, text):
    assert count(value) == text


@pytest.mark.parametrize(("value", "text"), [(12, "12 B"), (1_120_000, "1.12 MB"), (98_000, "98.0 kB")])
def test_sizes_are_decimal(value, text):
    assert size(value) == text


@pytest.mark.parametrize(("value", "text"), [(0.5, "+0.50"), (-0.5, "−0.50"), (-0.001, "0.00"), (0.0, "0.00")])
def test_what_rounds_to_nothing_has_no_sign(value, text):
    assert signed(value) == text


@pytest.mark.parametrize(("value", "text"), [(0.1234, "0.123"), (1.234, "1.23"), (12.34, "12.3"), (123.4, "123")])
def test_milliseconds_have_three_digits(value, text):
    assert milliseconds(value) == text


@pytest.mark.parametrize(("hits", "told"), [(100, ""), (99, ", top-5 99.00 %")])
def test_a_top5_of_all_images_is_left_out(hits, told):
    where = {"n": 100, "dataset": "digits", "split": "val", "runtime": "torch", "artifact": ""}
    line = accuracy_line(Accuracy(correct_top1=90, correct_top5=hits, **where))
    assert line.partition(")")[2] == f"{told}, n = 100, digits val, torch"


@pytest.mark.parametrize(("times", "text"), [(1.3889, "1.39"), (1.5, "1.50"), (1.15, "1.15"), (0.9996, "1.00")])
def test_a_speed_up_is_rounded_as_its_interval_is(times, text):
    change = Change(value=1 / times, low=1 / times, high=1 / times, versus="a")
    assert speed(change) == (f"speed ×{text}", f"[{text}, {text}]")


def test_half_the_latency_is_twice_the_speed():
    assert speed(Change(value=0.5, low=0.4, high=0.8, versus="a")) == ("speed ×2.00", "[1.25, 2.50]")


def test_being_right_on_the_same_images_is_told_in_words():
    assert points(Change(value=0, low=0, high=0, versus="a")) == ("0.00 points", "right on the same images")


def test_large_changes_need_no_second_decimal():
    assert points(Change(value=-13.9, low=-16.51, high=-11.29, versus="a"))[1] == "[−16.5, −11.3]"
    assert speed(Change(value=1 / 16.83, versus="a")) == ("speed ×16.8",)


def test_a_change_without_an_interval_shows_none():
    assert points(Change(value=-1.5, versus="a")) == ("−1.50 points",)


def test_a_figure_that_is_not_held_against_the_row_before_says_against_which():
    changes = Changes(
        points=Change(value=1.0, low=0.5, high=1.5, versus="00-import"),
        size_ratio=Change(value=0.25, versus="03-export"),
    )
    assert changes_text(changes, against="03-export") == ("+1.00 points to 00-import", "[+0.50, +1.50]", "size ×0.25")
    assert changes_text(changes)[0] == "+1.00 points"


def test_brackets_hold_two_figures_however_they_are_rounded():
    change = Change(value=0.5291, low=0.5285, high=0.5297, versus="a")
    assert speed(change) == ("speed ×1.890", "[1.888, 1.892]")
    assert points(Change(value=0.0, low=-0.003, high=0.003, versus="a")) == ("0.000 points", "[−0.003, +0.003]")
    assert interval_lines("p50", Interval(value=1.234, low=1.2337, high=1.2343)) == ("p50 1.2340", "[1.2337, 1.2343]")
    assert top1_lines(Interval(value=1.0, low=0.99996, high=1.0), 99_999)[:2] == ("100.000", "[99.996, 100.000]")
