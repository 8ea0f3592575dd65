"""The pictures of time: how calls are spread, and what each module costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgeres.core.errors import require
from edgeres.core.figures import HAIR, with_grid
from edgeres.core.records.latency import ModuleCost
from edgeres.report.canvas import ACCENT, DROPPED, INK, MUTED, drawing
from edgeres.report.costs import CostFigure
from edgeres.report.figures import LatencyFigure
from edgeres.report.wording import milliseconds, runtime_name

_PANEL_IN = 1.4  # height of one network's calls
_BAR_IN = 0.19
_MOST_TICKS = 6

Timed = tuple[str, LatencyFigure]


def calls_svg(timed: Sequence[Timed], name: str) -> str:
    """One histogram a network, each on an axis of its own, with its median and p99; empty if none was timed.

    timed: (network, latency); `name` begins the ids in the picture.
    """
    shown = [(network, latency) for network, latency in timed if latency.distribution]
    if not shown:
        return ""
    with drawing(name, 0.35 + _PANEL_IN * len(shown), rows=len(shown)) as (panels, done):
        for axes, (network, latency) in zip(panels, shown, strict=True):
            _draw_calls(axes, network, latency)
        panels[-1].set_xlabel("duration of one call, ms (lines: median and 99th percentile)")
    return done.svg


def calls_title(network: str, latency: LatencyFigure) -> str:
    """`00-train, torch: p50 3.62, p99 4.10 ms, n = 500`, and how many calls lie beyond the axis."""
    above = latency.distribution.above if latency.distribution else 0
    p99 = f", p99 {milliseconds(latency.p99_ms.value)}" if latency.p99_ms.is_known else ""
    figures = f"p50 {milliseconds(latency.p50_ms.value)}{p99} ms"
    beyond = f", {above} slower" if above else ""
    return f"{network}, {runtime_name(latency.runtime)}: {figures}, n = {latency.samples:,}{beyond}"


def costs_svg(costs: CostFigure, dropped: set[str]) -> str:
    """One bar a module: milliseconds saved without it, with its interval; its own measurement as a dot."""
    with drawing("costs", 1.1 + _BAR_IN * len(costs.rows)) as ((axes,), done):
        _draw_costs(axes, costs.rows, dropped)
        source = f"n = {costs.networks} networks timed" if costs.networks else "layers of one engine"
        axes.set_xlabel(f"ms saved without it ({source}, 95 % whiskers)")
    return done.svg


def _draw_calls(axes: Any, network: str, latency: LatencyFigure) -> None:
    calls = latency.distribution
    assert calls is not None
    axes.stairs(calls.counts, calls.edges_ms, fill=True, color=ACCENT)
    axes.axvline(latency.p50_ms.value, color=INK, linewidth=1)
    if latency.p99_ms.is_known:
        axes.axvline(latency.p99_ms.value, color=INK, linewidth=1)
    if calls.is_log:
        axes.set_xscale("log")
    _set_ticks(axes, is_log=calls.is_log)
    axes.set_xlim(calls.edges_ms[0], calls.edges_ms[-1])
    axes.set_ylim(bottom=0)
    axes.locator_params(axis="y", nbins=3, integer=True)
    axes.set_ylabel("calls")
    axes.set_title(calls_title(network, latency).replace(": ", "\n"), loc="left", fontsize=10, color=INK)
    with_grid(axes, "x")


def _set_ticks(axes: Any, *, is_log: bool) -> None:
    """Plain numbers, few enough not to touch."""
    ticker = require("matplotlib.ticker", "report")
    if is_log:
        axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 3.0), numticks=_MOST_TICKS))
        axes.xaxis.set_minor_locator(ticker.NullLocator())
        axes.set_xlabel("")
    else:
        axes.xaxis.set_major_locator(ticker.MaxNLocator(_MOST_TICKS))
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.get_offset_text().set_visible(False)


def _draw_costs(axes: Any, rows: Sequence[ModuleCost], dropped: set[str]) -> None:
    positions = range(len(rows))
    saved = [row.saved_ms for row in rows]
    axes.barh(
        positions,
        [one.value for one in saved],
        height=0.72,
        color=[DROPPED if row.module in dropped else ACCENT for row in rows],
        xerr=[[one.value - one.low for one in saved], [one.high - one.value for one in saved]],
        error_kw={"ecolor": INK, "elinewidth": 1, "capsize": 1.5},
    )
    own = [(row.alone_ms.value, place) for place, row in enumerate(rows) if row.alone_ms]
    if own:
        axes.plot([x for x, _ in own], [y for _, y in own], "o", color=MUTED, markersize=3.5, label="timed by itself")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)
    axes.set_yticks(positions, [f"{row.module} ×" if row.module in dropped else row.module for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.spines["left"].set_visible(False)
    axes.xaxis.grid(visible=True, linewidth=HAIR)
    axes.set_axisbelow(True)
