"""Pictures: one canvas that gives the same bytes for the same drawing, and SVG files that stand by themselves.

A file has its own white ground and is readable in a README and in print. The page's pictures follow its colours
instead, see `edgeres.report.plots`.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgeres.core.errors import require
from edgeres.core.files import write_text
from edgeres.core.metrics import Interval

INK, MUTED, RULE = "#1b1b1f", "#5c5f66", "#d9dbe0"
COLOURS = ("#2457a6", "#c4552d", "#3b8a5a", "#8457a8", "#a8860b")  # told apart by people who see no red or green too
HAIR = 0.6  # width of grid lines in points
_SHARED = {
    "svg.hashsalt": "edgeres",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}
_STYLE: dict[str, Any] = {
    "svg.fonttype": "path",
    "savefig.facecolor": "white",
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.prop_cycle": f"cycler('color', {list(COLOURS)})",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": HAIR,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}
_HEIGHT_IN = 3.4
_POINT_RADIUS, _LINE_AIR = 6, 2  # points, with a little air
Point = tuple[float, float]
Spot = tuple[str, Interval, Interval]  # name, x, y


class Drawing:
    """A finished picture: its text is there once the block that drew it is left."""

    def __init__(self) -> None:
        self.svg = ""


@contextmanager
def canvas(
    style: Mapping[str, Any], size_in: Point, *, rows: int = 1, columns: int = 1
) -> Iterator[tuple[list[Any], Drawing]]:
    """Axes to draw into, rows first, in `style` (matplotlib's rcParams). Raises MissingDependency."""
    matplotlib = require("matplotlib", "report")
    figures = require("matplotlib.figure", "report")
    text, done = io.StringIO(), Drawing()
    with matplotlib.rc_context({**_SHARED, **style}):
        figure = figures.Figure(figsize=size_in, layout="constrained")
        yield list(figure.subplots(rows, columns, squeeze=False).flat), done
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    done.svg = text.getvalue()


@contextmanager
def figure_file(path: Path, *, panels: int = 1, width_in: float = 6.4, height_in: float = _HEIGHT_IN) -> Iterator[Any]:
    """Draws into `panels` axes side by side (one Axes, or a list of them) and writes the SVG file when left.

    Raises MissingDependency without matplotlib.
    """
    with canvas(_STYLE, (width_in, height_in), columns=panels) as (axes, done):
        yield axes[0] if panels == 1 else axes
    write_text(path, done.svg)


def with_grid(axes: Any, axis: str = "both") -> None:
    """Hair lines behind what is drawn."""
    axes.grid(visible=True, axis=axis, linewidth=HAIR)
    axes.set_axisbelow(True)


def draw_points(axes: Any, spots: Sequence[Spot], marker: str, *, ink: str, muted: str, **style: Any) -> None:
    """Each a marker with the whiskers of its intervals; style: of the markers, as matplotlib's `plot` takes it."""
    (x, xerr), (y, yerr) = whiskers([x for _, x, _ in spots]), whiskers([y for _, _, y in spots])
    axes.errorbar(x, y, xerr=xerr, yerr=yerr, fmt="none", ecolor=muted, elinewidth=1)
    axes.plot(x, y, marker, color=ink, markersize=6.5, **style)


def whiskers(figures: Sequence[Interval]) -> tuple[list[float], list[list[float]]]:
    """(values, how far each interval reaches below and above them)."""
    reach = [[one.value - one.low for one in figures], [one.high - one.value for one in figures]]
    return [one.value for one in figures], reach


def label_points(axes: Any, spots: Sequence[Spot]) -> None:
    """Writes each name that is one where it covers no other, no point, whisker or line, if there is such a place.

    A hair leads to the point from a name that does not stand next to it.
    """
    transforms = require("matplotlib.transforms", "report")
    axes.figure.draw_without_rendering()  # limits and layout are then final
    lines, taken = list(_lines_in(axes)), []
    for _, x, y in spots:
        centre = axes.transData.transform((x.value, y.value))
        reach = ((x.low, y.value), (x.high, y.value)), ((x.value, y.low), (x.value, y.high))
        taken += [transforms.Bbox(axes.transData.transform(whisker)).padded(1) for whisker in reach]
        taken.append(transforms.Bbox([centre, centre]).padded(_POINT_RADIUS))
    for name, x, y in (spot for spot in spots if spot[0]):
        at = (x.value, y.value)
        label = axes.annotate(name, at, xytext=(0, 0), textcoords="offset points", annotation_clip=False)
        taken.append(_placed(label, taken, lines))
        if all(place := label.get_position()):
            _lead(axes, at, place)


def _lead(axes: Any, at: Point, place: Point) -> None:
    """A hair from `place`, in points off `at`, to the point there."""
    muted = require("matplotlib", "report").rcParams["xtick.color"]
    hair = {"arrowstyle": "-", "linewidth": HAIR, "color": muted, "shrinkA": 0, "shrinkB": _POINT_RADIUS}
    axes.annotate("", at, xytext=place, textcoords="offset points", arrowprops=hair, annotation_clip=False)


def _lines_in(axes: Any) -> Iterator[Any]:
    """What is drawn as a line, as a path on the canvas, with its steps."""
    cbook, paths = require("matplotlib.cbook", "report"), require("matplotlib.path", "report")
    for line in axes.lines:
        if line.get_linestyle() != "None":
            stepped = cbook.STEP_LOOKUP_MAP[line.get_drawstyle()](*line.get_data())
            yield line.get_transform().transform_path(paths.Path(list(zip(*stepped, strict=True))))


def _placed(label: Any, taken: Sequence[Any], lines: Sequence[Any]) -> Any:
    """Moves the label to the first free place and returns the box it then covers."""
    for dx, dy, side in _places():
        label.set(position=(dx, dy), horizontalalignment=side, verticalalignment="center")
        box = label.get_window_extent()
        inside = box.x0 > label.axes.bbox.x0 and box.x1 < label.axes.figure.bbox.x1
        is_clear = not any(line.intersects_bbox(box.padded(_LINE_AIR), filled=False) for line in lines)
        if inside and is_clear and not any(box.overlaps(other) for other in taken):
            break
    return box


def _places() -> Iterator[tuple[float, float, str]]:
    """Offsets in points: right of it before left, above and below it, then from near to far."""
    yield from ((9, 0, "left"), (-9, 0, "right"), (0, 14, "center"), (0, -14, "center"))
    for distance in (14, 28, 42, 56):
        for dy in (distance, -distance):
            yield 9, dy, "left"
            yield -9, dy, "right"
