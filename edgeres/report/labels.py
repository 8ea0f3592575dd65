"""Names beside points, each where it covers no other name and no point, if there is such a place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from edgeres.core.errors import require

_POINT_RADIUS = 6  # points, with a little air
Point = tuple[float, float]


def label_points(axes: Any, named: Sequence[tuple[str, Point]], whiskers: Sequence[tuple[Point, Point]] = ()) -> None:
    """Writes each name beside its (x, y); whiskers: lines from point to point that no name shall cover."""
    transforms = require("matplotlib.transforms", "report")
    axes.figure.draw_without_rendering()  # limits and layout are then final
    taken = [transforms.Bbox(axes.transData.transform(pair)).padded(1) for pair in whiskers]
    for _, point in named:
        centre = axes.transData.transform(point)
        taken.append(transforms.Bbox([centre, centre]).padded(_POINT_RADIUS))
    for name, point in named:
        label = axes.annotate(name, point, xytext=(0, 0), textcoords="offset points", annotation_clip=False)
        taken.append(_placed(label, taken))


def _placed(label: Any, taken: Sequence[Any]) -> Any:
    """Moves the label to the first free place and returns the box it then covers."""
    for dx, dy, side in _places():
        label.set(position=(dx, dy), horizontalalignment=side, verticalalignment="center")
        box = label.get_window_extent()
        inside = box.x0 > label.axes.bbox.x0 and box.x1 < label.axes.figure.bbox.x1
        if inside and not any(box.overlaps(other) for other in taken):
            break
    return box


def _places() -> Iterator[tuple[float, float, str]]:
    """Offsets in points from near to far, above and below it, then right of it before left."""
    yield 0, 14, "center"
    yield 0, -14, "center"
    for distance in (0, 14, 28, 42, 56):
        for dy in (distance, -distance):
            yield 9, dy, "left"
            yield -9, dy, "right"
