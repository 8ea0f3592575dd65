"""Names in pictures stand where they can be read."""

from __future__ import annotations

import pytest

from edgeres.core.metrics import Interval
from edgeres.core.pictures import figure_file, label_points


@pytest.mark.parametrize("other", ["", "other"])
def test_a_name_covers_no_point_whether_that_has_a_name_or_not(other, tmp_path):
    spots = [("fast", Interval.around(0.2, 0.01), Interval.around(1.0, 0.1))]
    spots.append((other, Interval.around(0.25, 0.01), Interval.around(1.0, 0.1)))
    with figure_file(tmp_path / "a.svg", height_in=3.0) as axes:
        for _, x, y in spots:
            axes.plot(x.value, y.value, "o")
        axes.set_xlim(0, 1)
        label_points(axes, spots)
        axes.figure.draw_without_rendering()
        (label, *_) = axes.texts
        assert [one.get_text() for one in axes.texts if one.get_text()] == [name for name, *_ in spots if name]
        assert not any(
            label.get_window_extent().contains(*axes.transData.transform((x.value, y.value))) for _, x, y in spots
        )


def test_of_two_points_side_by_side_each_name_stands_next_to_its_own(tmp_path):
    spots = [(name, Interval.around(x), Interval.around(0.9)) for name, x in (("06-export", 0.14), ("03-export", 0.2))]
    with figure_file(tmp_path / "a.svg", height_in=3.0) as axes:
        axes.set(xlim=(0, 1.2), ylim=(0, 1))
        label_points(axes, spots)
        first, second = axes.texts
        assert (second.get_position(), second.get_horizontalalignment()) == ((9, 0), "left")
        assert first.get_position()[0] == 0
        assert first.get_horizontalalignment() == "center"


def test_a_name_that_finds_no_place_next_to_its_point_is_led_to_it(tmp_path):
    with figure_file(tmp_path / "a.svg", height_in=3.0) as axes:
        axes.plot([0, 1], [1.0, 1.0])
        axes.set(xlim=(0, 1), ylim=(0, 2))
        label_points(axes, [("balanced", Interval.around(0.5), Interval.around(1.0, 0.9))])
        label, hair = axes.texts
        assert (hair.get_text(), hair.xy, hair.get_position()) == ("", (0.5, 1.0), label.get_position())


@pytest.mark.parametrize("style", ["steps-post", "default"])
def test_a_name_stands_clear_of_a_line(style, tmp_path):
    spots = [("balanced", Interval.around(0.2, 0.01), Interval.around(1.0, 0.9))]
    spots.append(("", Interval.around(0.9, 0.01), Interval.around(0.9, 0.1)))
    with figure_file(tmp_path / "a.svg", height_in=3.0) as axes:
        axes.plot([0.2, 0.9], [1.0, 0.9], drawstyle=style)
        axes.set(xlim=(0, 1), ylim=(0, 2))
        label_points(axes, spots)
        (label,) = axes.texts
        box = label.get_window_extent()
        corners = [(0.2, 1.0), (0.9, 1.0)] if style == "steps-post" else [(0.2, 1.0), (0.9, 0.9)]
        (x0, y0), (x1, y1) = axes.transData.transform(corners)
        for share in range(101):
            x, y = x0 + share / 100 * (x1 - x0), y0 + share / 100 * (y1 - y0)
            assert not (box.x0 - 1 <= x <= box.x1 + 1 and box.y0 - 1 <= y <= box.y1 + 1)
