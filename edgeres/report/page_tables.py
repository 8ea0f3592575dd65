"""The cells of the page's tables; the rest of its words stand in the templates."""

from __future__ import annotations

from edgeres.core.records.sweep import SweepFigure
from edgeres.report.agreements import AgreementFigure
from edgeres.report.boards_text import board_cells
from edgeres.report.cells import Lines
from edgeres.report.findings import HistogramFigure
from edgeres.report.summary import RunSummary
from edgeres.report.wording import figure_lines, lost, milliseconds, percent, runtime_name, signed

_LEAST_P = 0.0001


def sweep_rows(sweep: SweepFigure) -> list[list[Lines]]:
    """One row a number of modules."""
    return [
        [
            (str(point.count),),
            figure_lines(point.top1, percent),
            (f"{lost(-point.change_points, 2)} ± {point.half_width_points:.2f}" if point.count else "–",),
            (milliseconds(point.latency_ms.value),),
            figure_lines(point.ratio, "{:.3f}".format),
            ("yes" if point.is_best else "no",),
            (", ".join(point.dropped) or "–",),
        ]
        for point in sweep.points
    ]


def way_rows(summary: RunSummary) -> list[list[Lines]]:
    """One row a network, batch and way."""
    return [
        [
            (one.name, f"{one.way}, batch {one.batch}"),
            figure_lines(one.images_per_s, "{:,.0f}".format),
            figure_lines(one.p50_ms, milliseconds),
            (", ".join(f"{name} {milliseconds(ms)}" for name, ms in one.parts_ms.items()) or "–",),
            (f"{one.samples:,}",),
            (runtime_name(one.runtime),),
        ]
        for one in summary.ways
    ]


def bounds_of(figure: HistogramFigure) -> tuple[tuple[str, ...], list[list[Lines]]]:
    """(column titles, rows) of every calibrator's bound for the tensors that are shown."""
    methods = tuple(dict.fromkeys(method for one in figure.shown for method in one.amax))
    rows = []
    for one in figure.shown:
        cells: list[Lines] = [(one.tensor, f"exact zeros {percent(one.zeros / one.n)} %" if one.n else "")]
        for method in methods:
            noise = one.sqnr_db.get(method)
            bound = (f"{one.amax[method]:.3g}",) if method in one.amax else ("–",)
            taken = ("taken",) if method == one.chosen else ()
            cells.append((*bound, *([f"{noise:.1f} dB"] if noise is not None else []), *taken))
        rows.append(cells)
    return ("Tensor", *methods), rows


def agreement_cells(one: AgreementFigure) -> list[Lines]:
    """One row of the agreement table."""
    runtimes = tuple(dict.fromkeys((runtime_name(one.runtime_a), runtime_name(one.runtime_b))))
    return [
        (f"{one.b}", f"against {one.a}"),
        runtimes,
        (*figure_lines(one.same, percent, after=" %"), f"n = {one.n:,}"),
        (f"{one.only_a:,}",),
        (f"{one.only_b:,}",),
        figure_lines(one.points, signed, after=" points"),
        (f"{one.p_value:.2g}" if one.p_value >= _LEAST_P else f"< {_LEAST_P}",),
    ]


def absent_rows(summary: RunSummary) -> list[list[Lines]]:
    """One row for each network and kind of measurement."""
    return [[(one.name,), (one.what,), (one.why,), (one.todo,)] for one in summary.absent]


def board_rows(summary: RunSummary) -> list[list[Lines]]:
    """One row for each file and board."""
    return [list(board_cells(board).values()) for board in summary.boards]
