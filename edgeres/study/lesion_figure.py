"""The picture of a lesion table: error without each module, and error against the number of modules deleted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeres.core.figures import COLOURS, MUTED, figure_file, whiskers
from edgeres.study.lesion_table import LesionTable, NetworkLesions
from edgeres.study.trend import Trend

_MOST_NAMES = 30  # module names that fit below one panel
_PANEL_IN = 5.4
_HEIGHT_IN = 3.8
_LEGEND = {"fontsize": 8, "loc": "best", "frameon": True, "framealpha": 0.85, "edgecolor": "none"}
_BARS = {"markersize": 4, "capsize": 2}


def draw_lesions(table: LesionTable, path: Path) -> None:
    """Writes the SVG file; raises MissingDependency without matplotlib."""
    panels = 2 if table.trend else 1
    with figure_file(path, panels=panels, width_in=_PANEL_IN * panels + 1, height_in=_HEIGHT_IN) as axes:
        _draw_singles(axes[0] if panels == 2 else axes, table)
        if table.trend:
            _draw_sets(axes[1], table, table.trend)


def _draw_singles(axes: Any, table: LesionTable) -> None:
    _draw_network(axes, table, COLOURS[0], "o")
    projections = [(place, row) for place, row in enumerate(table.table, 1) if row.kind == "projection"]
    for place, row in projections:
        axes.plot(place, row.error.value, "s", color=COLOURS[0], markersize=8, markerfacecolor="white")
    if table.control is not None:
        _draw_network(axes, table.control, COLOURS[1], "^")
    _draw_chance(axes, table.num_classes)
    deleted = "module or layer deleted, in order"
    if table.control is None and len(table.table) <= _MOST_NAMES:
        deleted = "module deleted (stage.index)"
        names = [row.module.removeprefix("layer") for row in table.table]
        axes.set_xticks(range(1, len(names) + 1), names, rotation=90, fontsize=8)
    axes.set_xlabel(deleted + (", □ changes the shape" if projections else ""))
    axes.set_ylabel("top-1 error, %")
    axes.set_ylim(bottom=0)
    axes.set_title(f"one deletion each, 95 % whiskers, n = {table.whole.accuracy.n:,}", fontsize=10)
    axes.legend(**_LEGEND)


def _draw_network(axes: Any, lesions: NetworkLesions, colour: str, marker: str) -> None:
    errors, reach = whiskers([row.error for row in lesions.table])
    places, label, whole = range(1, len(errors) + 1), f"{lesions.network} without a module", lesions.whole.error.value
    axes.errorbar(places, errors, reach, fmt=marker, color=colour, elinewidth=1, label=label, **_BARS)
    axes.axhline(whole, color=colour, linewidth=1, label=f"{lesions.network} whole ({whole:.1f} %)")


def _draw_sets(axes: Any, table: LesionTable, trend: Trend) -> None:
    """Every set as a dot, and the means of each size with their 95 % intervals."""
    sets = [one for one in table.sets if one.k]
    ks, errors = [one.k for one in sets], [one.error_percent for one in sets]
    axes.plot(ks, errors, ".", color=COLOURS[0], alpha=0.3, label="one draw")
    means, reach = whiskers([one.error for one in trend.levels])
    sizes, label = [one.level for one in trend.levels], "mean, 95 % interval"
    axes.errorbar(sizes, means, reach, color=COLOURS[0], marker="o", label=label, **_BARS)
    axes.set_ylim(bottom=0)
    axes.legend(**_LEGEND)
    _draw_chance(axes, table.num_classes)
    axes.set_xlabel("identity modules deleted at random")
    axes.set_ylabel("top-1 error, %")
    axes.set_title(f"{table.network}, n = {table.sets_n:,}", fontsize=10)


def _draw_chance(axes: Any, num_classes: int) -> None:
    chance = 100 * (1 - 1 / num_classes)
    axes.axhline(chance, color=MUTED, linewidth=1, linestyle="--")
    axes.set_ylim(top=max(axes.get_ylim()[1], chance * 1.12))
    axes.annotate("guessing", (0.01, chance), xycoords=("axes fraction", "data"), va="bottom", fontsize=8, color=MUTED)
