"""The pictures of INT8: what values a tensor holds and where it is clipped, and where two networks drift apart."""

from __future__ import annotations

from typing import Any

from edgeres.core.errors import require
from edgeres.core.figures import with_grid
from edgeres.evaluate.agreement import Agreement
from edgeres.report.canvas import ACCENT, DROPPED, INK, MUTED, drawing
from edgeres.report.histograms import HistogramFigure, TensorHistogram

_PANEL_IN = 1.5
_BAR_IN = 0.19


def histograms_svg(figure: HistogramFigure, name: str = "histograms") -> str:
    """One panel a tensor: values on a logarithmic count, the chosen bound a thick line, the others thin ones."""
    shown = figure.shown
    with drawing(name, 0.35 + _PANEL_IN * len(shown), rows=len(shown)) as (panels, done):
        for axes, one in zip(panels, shown, strict=True):
            _draw(axes, one)
        panels[-1].set_xlabel("size of a value, |x| (thick line: the bound that was taken)")
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
    rows = [(one.name, one.sqnr_db) for one in agreement.modules if one.sqnr_db is not None]
    if not rows:
        return ""
    with drawing(name, 1.0 + _BAR_IN * len(rows)) as ((axes,), done):
        positions = range(len(rows))
        colours = [DROPPED if module == agreement.drift else ACCENT for module, _ in rows]
        axes.barh(positions, [value for _, value in rows], height=0.72, color=colours)
        axes.set_yticks(positions, [module for module, _ in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(f"signal over noise of the module's output, dB (n = {agreement.n:,})")
        with_grid(axes, "x")
    return done.svg


def _draw(axes: Any, one: TensorHistogram) -> None:
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
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: _short(value)))
    axes.set_ylabel("values")
    axes.set_title(tensor_title(one).replace(": ", "\n"), loc="left", fontsize=10, color=INK)


def _short(value: float) -> str:
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:g}{unit}"
    return f"{value:g}"
