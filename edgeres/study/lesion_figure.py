"""The picture of a lesion table: error without each module, and error against the number of modules deleted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeres.core.figures import COLOURS, MUTED, figure_file
from edgeres.core.metrics import wilson
from edgeres.core.records.lesion import Lesion
from edgeres.study.lesion_table import LesionTable, NetworkLesions
from edgeres.study.trend import Level

_MOST_NAMES = 30  # module names that fit below one panel
_PANEL_IN = 5.4
_HEIGHT_IN = 3.8


def draw_lesions(table: LesionTable, path: Path) -> None:
    """Writes the SVG file; raises MissingDependency without matplotlib."""
    panels = 2 if table.trend else 1
    with figure_file(path, panels=panels, width_in=_PANEL_IN * panels + 1, height_in=_HEIGHT_IN) as axes:
        _draw_singles(axes[0] if panels == 2 else axes, table)
        if table.trend:
            draw_levels(axes[1], table.trend.levels, [(one.k, one.error_percent) for one in table.sets if one.k])
            _chance(axes[1], table.num_classes)
            axes[1].set_xlabel("identity modules deleted at random")
            axes[1].set_ylabel("top-1 error, %")
            axes[1].set_title(f"{table.network}, n = {table.sets_n:,}", fontsize=10)


def _draw_singles(axes: Any, table: LesionTable) -> None:
    projections = {place: row for place, row in enumerate(table.table, 1) if row.kind == "projection"}
    _draw_network(axes, table, COLOURS[0], "o")
    for place, row in projections.items():
        axes.plot(place, _error(row)[0], "s", color=COLOURS[0], markersize=8, markerfacecolor="white")
    if table.control is not None:
        _draw_network(axes, table.control, COLOURS[1], "^")
    _chance(axes, table.num_classes)
    if table.control is None and len(table.table) <= _MOST_NAMES:
        names = [row.module.removeprefix("layer") for row in table.table]
        axes.set_xticks(range(1, len(names) + 1), names, rotation=90, fontsize=8)
        axes.set_xlabel("module deleted (stage.index)" + (", □ changes the shape" if projections else ""))
    else:
        axes.set_xlabel("module or layer deleted, in order" + (", □ changes the shape" if projections else ""))
    axes.set_ylabel("top-1 error, %")
    axes.set_ylim(bottom=0)
    axes.set_title(f"one deletion each, 95 % whiskers, n = {table.whole.accuracy.n:,}", fontsize=10)
    axes.legend(fontsize=8, loc="best", frameon=True, framealpha=0.85, edgecolor="none")


def _draw_network(axes: Any, lesions: NetworkLesions, colour: str, marker: str) -> None:
    errors = [_error(row) for row in lesions.table]
    whiskers = [[middle - low for middle, low, _ in errors], [high - middle for middle, _, high in errors]]
    middles = [middle for middle, _, _ in errors]
    axes.errorbar(
        range(1, len(errors) + 1),
        middles,
        whiskers,
        fmt=marker,
        color=colour,
        markersize=4,
        capsize=2,
        elinewidth=1,
        label=f"{lesions.network} without a module",
    )
    whole = _error(lesions.whole)[0]
    axes.axhline(whole, color=colour, linewidth=1, label=f"{lesions.network} whole ({whole:.1f} %)")


def draw_levels(axes: Any, levels: Sequence[Level], draws: Sequence[tuple[float, float]]) -> None:
    """Every draw (level, error in per cent) as a dot, and the means with their 95 % intervals."""
    axes.plot([x for x, _ in draws], [y for _, y in draws], ".", color=COLOURS[0], alpha=0.3, label="one draw")
    means = [level.error.value for level in levels]
    below = [level.error.value - level.error.low for level in levels]
    above = [level.error.high - level.error.value for level in levels]
    axes.errorbar(
        [level.level for level in levels],
        means,
        [below, above],
        color=COLOURS[0],
        marker="o",
        markersize=4,
        capsize=2,
        label="mean, 95 % interval",
    )
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8, loc="best", frameon=True, framealpha=0.85, edgecolor="none")


def _chance(axes: Any, num_classes: int) -> None:
    chance = 100 * (1 - 1 / num_classes)
    axes.axhline(chance, color=MUTED, linewidth=1, linestyle="--")
    axes.set_ylim(top=max(axes.get_ylim()[1], chance * 1.12))
    axes.annotate("guessing", (0.01, chance), xycoords=("axes fraction", "data"), va="bottom", fontsize=8, color=MUTED)


def _error(row: Lesion) -> tuple[float, float, float]:
    low, high = wilson(row.accuracy.correct_top1, row.accuracy.n)
    return 100 * (1 - row.accuracy.top1), 100 * (1 - high), 100 * (1 - low)
