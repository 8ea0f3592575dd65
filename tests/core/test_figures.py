"""Names in pictures stand where they can be read."""

from __future__ import annotations

import pytest

from edgeres.core.figures import figure_file, label_points
from edgeres.core.metrics import Interval


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
        assert [one.get_text() for one in axes.texts] == [name for name, *_ in spots if name]
        assert not any(
            label.get_window_extent().contains(*axes.transData.transform((x.value, y.value))) for _, x, y in spots
        )
