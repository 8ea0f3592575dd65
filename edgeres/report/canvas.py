"""Where the page's pictures are drawn.

Colours are drawn as placeholders and come out as the page's CSS variables: a picture follows the page from
light to dark; text stays text, in the page's font.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from edgeres.core.figures import Drawing, canvas, whiskers, with_grid
from edgeres.core.statistics import Interval

INK, MUTED, RULE, ACCENT, DROPPED = "#010101", "#020202", "#030303", "#040404", "#050505"
_VARIABLES = {INK: "--ink", MUTED: "--muted", RULE: "--rule", ACCENT: "--accent", DROPPED: "--dropped"}
_STYLE = {
    "svg.fonttype": "none",
    "savefig.transparent": True,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.prop_cycle": f"cycler('color', ['{ACCENT}'])",
    "grid.color": RULE,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}
_PANEL_IN, _BAR_IN = 1.45, 0.19  # heights of one of several axes, and of one bar
_WIDTH_IN = 5.0  # at 72 points an inch as wide as a phone: there the letters keep their size


@contextmanager
def drawing(name: str, height_in: float, *, rows: int = 1) -> Iterator[tuple[list[Any], Drawing]]:
    """`rows` axes below each other; ids in the picture begin with `name`. Raises MissingDependency."""
    done = Drawing()
    with canvas(_STYLE, (_WIDTH_IN, height_in), rows=rows) as (axes, plain):
        yield axes, done
    done.svg = _themed(plain.svg, name)


@contextmanager
def panels(name: str, titles: Sequence[str], label: str) -> Iterator[tuple[list[Any], Drawing]]:
    """Axes below each other, each under its title `what: figures`; the last one's x axis has the label."""
    with drawing(name, 0.35 + _PANEL_IN * len(titles), rows=len(titles)) as (axes, done):
        for one, title in zip(axes, titles, strict=True):
            one.set_title(title.replace(": ", "\n"), loc="left", fontsize=10, color=INK)
        axes[-1].set_xlabel(label)
        yield axes, done


@contextmanager
def bars(name: str, figures: dict[str, Interval], marked: set[str]) -> Iterator[tuple[Any, Drawing]]:
    """The axes of one bar a module, from the top down with whiskers; names of the `marked` ones end in a cross."""
    values, reach = whiskers(list(figures.values()))
    with drawing(name, 1.1 + _BAR_IN * len(figures)) as ((axes,), done):
        axes.barh(
            range(len(figures)),
            values,
            height=0.72,
            color=[DROPPED if module in marked else ACCENT for module in figures],
            xerr=reach if any(map(any, reach)) else None,
            error_kw={"ecolor": INK, "elinewidth": 1, "capsize": 1.5},
        )
        axes.set_yticks(range(len(figures)), [f"{module} ×" if module in marked else module for module in figures])
        axes.set_ylim(len(figures) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.spines["left"].set_visible(False)
        with_grid(axes, "x")
        yield axes, done


def _themed(svg: str, name: str) -> str:
    """Only the <svg> element: no size, metadata or global style; ids made unique; colours as variables."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style).*?</\1>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) (?:width|height)="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) (?:width|height)="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", svg)
    svg = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    for placeholder, variable in _VARIABLES.items():
        svg = svg.replace(placeholder, f"var({variable})")
    return svg.strip()
