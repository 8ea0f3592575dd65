"""Pictures that stand by themselves: SVG files with their own white ground, readable in a README and in print.

The page's pictures follow its colours instead, see `edgeres.report.plots`.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgeres.core.errors import require
from edgeres.core.files import write_text

INK, MUTED, RULE = "#1b1b1f", "#5c5f66", "#d9dbe0"
COLOURS = ("#2457a6", "#c4552d", "#3b8a5a", "#8457a8", "#a8860b")  # told apart by people who see no red or green too
_STYLE: dict[str, Any] = {
    "svg.fonttype": "path",
    "svg.hashsalt": "edgeres",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
}
_HEIGHT_IN = 3.4


@contextmanager
def figure_file(path: Path, *, panels: int = 1, width_in: float = 6.4, height_in: float = _HEIGHT_IN) -> Iterator[Any]:
    """Draws into `panels` axes side by side (one Axes, or a list of them) and writes the SVG file when left.

    The same drawing always gives the same bytes. Raises MissingDependency without matplotlib.
    """
    matplotlib = require("matplotlib", "report")
    figures = require("matplotlib.figure", "report")
    cycler = require("cycler", "report").cycler
    with matplotlib.rc_context({**_STYLE, "axes.prop_cycle": cycler("color", COLOURS)}):
        figure = figures.Figure(figsize=(width_in, height_in), layout="constrained")
        axes = figure.subplots(1, panels, squeeze=False)[0]
        yield axes[0] if panels == 1 else list(axes)
        svg = io.StringIO()
        figure.savefig(svg, format="svg", facecolor="white", metadata={"Date": None, "Creator": None})
    write_text(path, svg.getvalue())
