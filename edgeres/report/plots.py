"""The page's pictures: what each module is worth, what networks cost and gain, how calls and tensors are spread.

Colours are drawn as placeholders and come out as the page's CSS variables: a picture follows the page from
light to dark; text stays text, in the page's font.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from typing import Any

from edgeres.core.errors import require
from edgeres.core.metrics import Interval
from edgeres.core.pictures import Drawing, Spot, canvas, draw_points, label_points, whiskers, with_grid
from edgeres.core.records.frontier import Frontier, draw_frontier
from edgeres.core.records.sweep import SweepFigure, draw_sweep
from edgeres.evaluate.agreement import Agreement
from edgeres.report.figures import LatencyFigure
from edgeres.report.findings import CostFigure, LesionFigure, TensorHistogram
from edgeres.report.networks import board_in
from edgeres.report.summary import Row, RunSummary
from edgeres.report.wording import lost, milliseconds, runtime_name

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
_POINTS_IN = 3.9
_LINEAR_POINTS = 1.0  # where a logarithmic axis is linear around zero
_WIDE_RANGE = 10  # largest change over the median one from which the axis is logarithmic
_MARKERS = "osD^v"
_MOST_TICKS = 6

Timed = tuple[str, LatencyFigure]


def lesion_svg(summary: RunSummary) -> str:
    """One bar a module: what is lost without it, dropped ones marked; empty without a lesion table."""
    lesion = summary.lesion
    if not lesion:
        return ""
    losses = {entry.module: Interval.around(entry.lost_points, entry.half_width_points) for entry in lesion}
    with bars("lesion", losses, summary.gone) as (axes, done):
        scale = _set_scale(axes, [entry.lost_points for entry in lesion])
        axes.set_xlabel(f"{lesion[0].lost_are} lost{scale} (n = {lesion[0].n:,}, 95 % whiskers)")
        refitted = [(entry.refitted_points, place) for place, entry in enumerate(lesion)]
        axes.plot(*zip(*refitted, strict=True), "D", color=INK, markeredgecolor=RULE, markersize=5, zorder=3)
        _write_values(axes, lesion)
    return done.svg


def tradeoff_svg(summary: RunSummary) -> str:
    """Top-1 against latency, each stage a point with whiskers; against file size where nothing was timed.

    Where a board has measured, its figures are drawn.
    """
    judged: list[Any] = [row for row in summary.rows_on_board or summary.rows if row.accuracy]
    timed = [row for row in judged if row.latency]
    rows = timed or judged
    if not rows:
        return ""
    with drawing("tradeoff", _POINTS_IN) as ((axes,), done):
        spots: dict[str, list[Spot]] = {}
        named = [(runtime_name(row.latency.runtime) if row.latency else "", row) for row in rows]
        for runtime, row in sorted(named, key=lambda pair: pair[0]):
            cost = row.latency.p50_ms if row.latency else Interval.around(row.size_bytes / 1e6)
            spots.setdefault(runtime, []).append((row.name, cost, row.accuracy.top1.times(100)))
        for (runtime, shown), marker in zip(spots.items(), cycle(_MARKERS), strict=False):
            draw_points(axes, shown, marker, ink=ACCENT, muted=MUTED, label=runtime)
        n = max(row.accuracy.n for row in rows if row.accuracy)
        axes.set_ylabel(f"top-1, % (n = {n:,}, 95 % whiskers)")
        axes.set_xlabel(_latency_label(rows) if timed else "file size, MB")
        axes.margins(x=0.18, y=0.14)
        axes.set_xlim(left=0)
        with_grid(axes)
        if len(spots) > 1:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(spots), borderaxespad=0)
        label_points(axes, [spot for shown in spots.values() for spot in shown])
    return done.svg


def points_svg(name: str, found: Frontier | SweepFigure) -> str:
    """Against latency, points lost for every network that was tried, or top-1 for every number of modules."""
    draw: Callable[..., None] = draw_frontier if isinstance(found, Frontier) else draw_sweep
    with drawing(name, _POINTS_IN) as ((axes,), done):
        draw(axes, found, ink=ACCENT, muted=MUTED)
    return done.svg


def calls_svg(timed: Sequence[Timed], name: str) -> str:
    """One histogram a network, each on an axis of its own, with its median and p99; empty if none was timed.

    timed: (network, latency); `name` begins the ids in the picture.
    """
    shown = [(network, latency) for network, latency in timed if latency.distribution]
    if not shown:
        return ""
    titles = [calls_title(*one) for one in shown]
    with panels(name, titles, "duration of one call, ms (lines: median and 99th percentile)") as (several, done):
        for axes, (_, latency) in zip(several, shown, strict=True):
            _draw_calls(axes, latency)
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
    own = [(row.alone_ms.value, place) for place, row in enumerate(costs.rows) if row.alone_ms]
    with bars("costs", {row.module: row.saved_ms for row in costs.rows}, dropped) as (axes, done):
        if own:
            axes.plot(*zip(*own, strict=True), "o", color=MUTED, markersize=3.5, label="timed by itself")
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)
        source = f"n = {costs.networks} networks timed" if costs.networks else "layers of one engine"
        axes.set_xlabel(f"ms saved without it ({source}, 95 % whiskers)")
    return done.svg


def histograms_svg(shown: Sequence[TensorHistogram], name: str = "histograms") -> str:
    """One panel a tensor: values on a logarithmic count, the chosen bound a thick line, the others thin ones."""
    label = "size of a value, |x| (thick line: the bound that was taken)"
    with panels(name, [tensor_title(one) for one in shown], label) as (several, done):
        for axes, one in zip(several, shown, strict=True):
            _draw_tensor(axes, one)
    return done.svg


def tensor_title(one: TensorHistogram) -> str:
    """`layer1.0.conv2: 38.2 dB, clipped at 3.21 of 5.40 (mse), n = 1,048,576`."""
    if not one.chosen:
        return f"{one.tensor}: largest {one.top:.3g}, n = {one.n:,}"
    noise = one.sqnr_db.get(one.chosen)
    decibels = "" if noise is None else f"{noise:.1f} dB, "
    return f"{one.tensor}: {decibels}clipped at {one.amax[one.chosen]:.3g} of {one.top:.3g}, n = {one.n:,}"


def agreement_svg(agreement: Agreement, name: str) -> str:
    """SQNR of every module's output, B against A; empty where no module was compared."""
    noise = {one.name: Interval.around(one.sqnr_db) for one in agreement.modules if one.sqnr_db is not None}
    if not noise:
        return ""
    with bars(name, noise, {agreement.drift or ""}) as (axes, done):
        axes.set_xlabel(f"signal over noise of the module's output, dB (n = {agreement.n:,})")
    return done.svg


def _set_scale(axes: Any, changes: Sequence[float]) -> str:
    """Logarithmic around zero if a few lesions dwarf the rest; returns what the label says of it."""
    sizes = sorted(abs(change) for change in changes)
    if sizes[-1] < _WIDE_RANGE * max(sizes[len(sizes) // 2], _LINEAR_POINTS / _WIDE_RANGE):
        return ""
    axes.set_xscale("symlog", linthresh=_LINEAR_POINTS, linscale=0.6)
    ticks = [sign * tick for tick in (1, 3, 10, 30, 100) for sign in (1, -1)]
    low, high = axes.get_xlim()
    axes.set_xlim(low, high)
    shown = [0, *(tick for tick in ticks if low <= tick <= high)]
    axes.set_xticks(sorted(shown), [str(tick).replace("-", "−") for tick in sorted(shown)], minor=False)
    axes.set_xticks([], minor=True)
    return ", log scale"


def _write_values(axes: Any, lesion: Sequence[LesionFigure]) -> None:
    """The figure of each bar at the right edge."""
    for position, entry in enumerate(lesion):
        axes.annotate(
            lost(entry.lost_points),
            (1.0, position),
            xycoords=axes.get_yaxis_transform(),
            xytext=(4, 0),
            textcoords="offset points",
            verticalalignment="center",
            color=MUTED,
            annotation_clip=False,
        )


def _latency_label(rows: Sequence[Row]) -> str:
    batches = sorted({row.latency.batch for row in rows if row.latency})
    on = next((f" on {board}" for row in rows if row.latency and (board := board_in(row.latency.runtime))), "")
    return f"median latency of a call{on}, ms (batch {', '.join(str(batch) for batch in batches)})"


def _draw_calls(axes: Any, latency: LatencyFigure) -> None:
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
    with_grid(axes, "x")


def _set_ticks(axes: Any, *, is_log: bool) -> None:
    """Plain numbers, few enough not to touch."""
    ticker = require("matplotlib.ticker", "report")
    if is_log:
        axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 3.0), numticks=_MOST_TICKS))
        axes.xaxis.set_minor_locator(ticker.NullLocator())
    else:
        axes.xaxis.set_major_locator(ticker.MaxNLocator(_MOST_TICKS))
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.get_offset_text().set_visible(False)


def _draw_tensor(axes: Any, one: TensorHistogram) -> None:
    ticker = require("matplotlib.ticker", "report")
    width = one.top / len(one.counts)
    edges = [width * place for place in range(len(one.counts) + 1)]
    axes.stairs(one.counts, edges, fill=True, color=ACCENT, baseline=0.5)
    for method, bound in one.amax.items():
        is_chosen = method == one.chosen
        axes.axvline(bound, color=DROPPED if is_chosen else MUTED, linewidth=2 if is_chosen else 0.8)
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.5)
    axes.set_xlim(0, one.top * 1.02)
    axes.yaxis.set_major_locator(ticker.LogLocator(numticks=4))
    axes.yaxis.set_minor_locator(ticker.NullLocator())
    axes.yaxis.set_major_formatter(ticker.EngFormatter(sep=""))
    axes.set_ylabel("values")


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
