"""Where the page's pictures are drawn.

Colours are drawn as placeholders and come out as the page's CSS variables: a picture follows the page from
light to dark; text stays text, in the page's font.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from edgeres.core.figures import Drawing, canvas

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
_WIDTH_IN = 5.0  # at 72 points an inch as wide as a phone: there the letters keep their size


@contextmanager
def drawing(
    name: str, height_in: float, *, rows: int = 1, ratios: list[float] | None = None
) -> Iterator[tuple[list[Any], Drawing]]:
    """`rows` axes below each other; ids in the picture begin with `name`. Raises MissingDependency."""
    done = Drawing()
    with canvas(_STYLE, (_WIDTH_IN, height_in), rows=rows, ratios=ratios) as (axes, plain):
        yield axes, done
    done.svg = _themed(plain.svg, name)


def _themed(svg: str, name: str) -> str:
    """Only the <svg> element: no size, metadata or global style; ids made unique; colours as variables."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) (?:width|height)="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) (?:width|height)="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", svg)
    svg = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    for placeholder, variable in _VARIABLES.items():
        svg = svg.replace(placeholder, f"var({variable})")
    return svg.strip()
