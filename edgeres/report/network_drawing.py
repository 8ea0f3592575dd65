"""The network as a drawing: modules as boxes on the signal's path, shortcuts as arcs, dropped ones struck through.

Written as SVG by hand: lines of a few boxes, as wide as a phone, so that a network of hundreds of modules grows in
height only. Under each box hangs a bar, log(1 + points of top-1 lost without the module), or
hundredths of the distance where there are no classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby

from edgeres.core.amounts import counted
from edgeres.core.distances import LOST_OF
from edgeres.report.summary import ModuleState
from edgeres.report.wording import lost

_WIDTH = 360  # units; about the pixels of a phone, so letters keep their size there
_LEFT, _PITCH, _A_LINE = 14, 27, 12  # of the boxes: start, distance, number on a line
_BOX_W, _BOX_H = 19, 18
_HEAD, _ARC, _GAP = 19, 22, 12  # heights: a stage's name, the arcs above the path, below a line
_BAR_W, _BAR_H = 9, 30
_BARS_Y = _ARC + _BOX_H / 2 + 3  # where bars begin, from the top of the arcs
_TICKS = (1, 10, 50)
_LONGEST_NAME = 3  # letters that fit into a box
_TICK_W, _NAME_W = 16, 118  # room for the scale's figures, and at least for a stage's name
_LETTER_W = 5.5  # of a heading, on the safe side of 9.5 px letters

Group = tuple[str, list[ModuleState]]


@dataclass(frozen=True)
class Bars:
    """What is lost without each module, `are` says in what; nothing hangs under the boxes where none was measured."""

    lost: Mapping[str, float]
    are: str = LOST_OF["kl"]

    @property
    def largest(self) -> float:
        """The longest bar's points, 0 for none."""
        return max([0.0, *self.lost.values()])

    def height(self, points: float) -> float:
        """Of a bar, on a logarithmic scale whose end is the longest one's, or one point's."""
        return _BAR_H * math.log1p(max(points, 0.0)) / math.log1p(max(self.largest, 1.0))


def module_groups(modules: Sequence[ModuleState]) -> Iterator[Group]:
    """Modules by the stage of the network they stand in: `layer2` -> layer2.0, layer2.1, ..."""
    for name, members in groupby(modules, key=lambda module: module.name.rpartition(".")[0]):
        yield name or "modules", list(members)


def network_svg(modules: Sequence[ModuleState], bars: Bars) -> str:
    """The drawing, empty without modules; bars: what is lost without a module, where that was measured."""
    if not modules:
        return ""
    parts, y = [_text(0, 11, "image, stem", "muted")], 18.0
    for row in _rows(module_groups(modules)):
        x = 0.0
        for group, members in row:
            parts += _group(group, members, (x, y), bars=bars)
            x += _width(group, members)
        y += _HEAD + _height_of(row[0][1], bars)
    parts.append(_text(0, y + 11, "pooling, head", "muted"))
    body = "\n".join(parts)
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y + 18:g}" class="drawn">\n{body}\n</svg>'


def network_label(modules: Sequence[ModuleState]) -> str:
    """The drawing in words."""
    dropped = [module.name for module in modules if module.dropped]
    groups = ", ".join(f"{name} with {len(members)}" for name, members in module_groups(modules))
    return f"The network's {counted(len(modules), 'module')}: {groups}. Dropped: {', '.join(dropped) or 'none'}."


def _rows(groups: Iterable[Group]) -> Iterator[list[Group]]:
    """Stages side by side as long as they fit; one that needs several lines has its rows for itself."""
    row: list[Group] = []
    for group in groups:
        if row and sum(_width(*one) for one in [*row, group]) > _WIDTH:
            yield row
            row = []
        row.append(group)
    yield row


def _width(name: str, members: Sequence[ModuleState]) -> float:
    boxes = _LEFT + _PITCH * min(len(members), _A_LINE) + _TICK_W
    return max(boxes, _NAME_W, _LETTER_W * (len(_heading(name, members)) + 1))


def _heading(name: str, members: Sequence[ModuleState]) -> str:
    """`layer2: 3 of 4 modules`; of a name too long for a phone its end."""
    told = f": {sum(not module.dropped for module in members)} of {counted(len(members), 'module')}"
    room = int(_WIDTH / _LETTER_W) - len(told) - 1
    return (name if len(name) <= room else f"…{name[1 - room :]}") + told


def _height_of(members: Sequence[ModuleState], bars: Bars) -> float:
    return math.ceil(len(members) / _A_LINE) * (_ARC + _BOX_H / 2 + (_BAR_H + 4 if bars.largest else 0) + _GAP)


def _group(name: str, members: Sequence[ModuleState], at: tuple[float, float], *, bars: Bars) -> Iterator[str]:
    """One stage of the network, its name above it; at: (x, y) of its upper left corner."""
    x, y = at
    yield _text(x, y + 11, _heading(name, members), "ink")
    for start in range(0, len(members), _A_LINE):
        line = members[start : start + _A_LINE]
        yield f'<g transform="translate({x:g} {y + _HEAD + _height_of(members[:start], bars):g})">'
        yield from _scale(_LEFT + _PITCH * len(line), bars)
        yield f'<path d="M2 {_ARC:g}H{_LEFT - 4}" class="path"/>'
        for place, module in enumerate(line):
            yield from _module(module, _LEFT + _PITCH * place, bars)
        yield "</g>"


def _module(module: ModuleState, x: float, bars: Bars) -> Iterator[str]:
    """Box, arc and bar of one module; the signal of a dropped one takes the arc."""
    left, right, state = x - 4, x + _PITCH - 4, "dropped" if module.dropped else "kept"
    worth = f", {lost(bars.lost[module.name])} {bars.are} lost without it" if module.name in bars.lost else ""
    spoken = escape(f"{module.name}, {module.kind}, {state}{worth}")
    yield f'<g class="module{" dropped" if module.dropped else ""}"><title>{spoken}</title>'
    yield f'<path d="M{left:g} {_ARC}C{left:g} 0 {right:g} 0 {right:g} {_ARC}" class="arc"/>'
    if module.kind == "projection":
        yield f'<rect x="{x + 6.5:g}" y="2.5" width="6" height="6" class="w"/>'
    if not module.dropped:
        yield f'<path d="M{left:g} {_ARC}H{right:g}" class="path"/>'
    yield f'<rect x="{x:g}" y="{_ARC - _BOX_H / 2:g}" width="{_BOX_W}" height="{_BOX_H}" rx="2.5" class="box"/>'
    if module.dropped:
        yield f'<path d="M{x:g} {_ARC + _BOX_H / 2:g}l{_BOX_W} {-_BOX_H}" class="strike"/>'
    place = module.name.rpartition(".")[2]  # of the module in its stage, the end of a long name otherwise
    yield _text(x + _BOX_W / 2, _ARC + 3.4, place[-_LONGEST_NAME:], "number", centred=True)
    if module.name in bars.lost and bars.largest:
        height, start = bars.height(bars.lost[module.name]), x + (_BOX_W - _BAR_W) / 2
        yield f'<rect x="{start:g}" y="{_BARS_Y:g}" width="{_BAR_W}" height="{height:.2f}" class="bar"/>'
    yield "</g>"


def _scale(end: float, bars: Bars) -> Iterator[str]:
    """Hair lines at a few points, each with its figure at the right."""
    for tick in (tick for tick in _TICKS if bars.largest and tick <= max(bars.largest, 1)):
        y = _BARS_Y + bars.height(tick)
        yield f'<path d="M{_LEFT - 2} {y:.2f}H{end:g}" class="hair"/>'
        yield _text(end + 1, y + 3, str(tick), "tick")


def _text(x: float, y: float, text: str, kind: str, *, centred: bool = False) -> str:
    anchor = ' text-anchor="middle"' if centred else ""
    return f'<text x="{x:g}" y="{y:g}" class="{kind}"{anchor}>{escape(text)}</text>'
