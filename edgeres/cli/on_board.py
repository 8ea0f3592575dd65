"""What boards measured, as one table: a column for each model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from edgeres.core.stage import StageReport
from edgeres.core.statistics import Interval
from edgeres.report.boards import NO_SAMPLES
from edgeres.report.boards_text import (
    energy_lines,
    engine_lines,
    logits_lines,
    power_lines,
    state_lines,
    top1_lines,
)
from edgeres.report.wording import p99_text

Cell = Callable[[StageReport], str]


def print_boards(reports: Sequence[StageReport], *, as_json: bool) -> None:
    """The table on stdout, what makes a figure doubtful on stderr; with `as_json` a report a line."""
    if as_json:
        for report in reports:
            click.echo(report.model_dump_json())
        return
    _print_table(reports)
    for report in reports:
        for note in report.notes:
            click.echo(f"{_name(report)}: {note}")
        for warning in report.warnings:
            click.echo(f"warning: {_name(report)}: {warning}", err=True)


def rows_of(reports: Sequence[StageReport]) -> list[list[str]]:
    """Title and one cell for each report; rows nothing is known about are left out."""
    rows = [[title, *(cell(report) for report in reports)] for title, cell in _ROWS.items()]
    return [row for row in rows if any(row[1:])]


def _print_table(reports: Sequence[StageReport]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    first, *rest = rows_of(reports)
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for title in first:
        table.add_column(Text(title), overflow="fold")
    for row in rest:
        table.add_row(*map(Text, row))
    click.echo(_where(reports[0]))
    Console(highlight=False).print(table)


def _where(report: StageReport) -> str:
    board = report.results["board"]
    parts = [
        board["model"] or "unknown board",
        f"JetPack {board['jetpack']}" if board["jetpack"] else f"L4T {board['l4t'] or 'unknown'}",
        f"TensorRT {board['tensorrt']}",
    ]
    return f"{board['name']}: {', '.join(parts)}"


def _name(report: StageReport) -> str:
    path = Path(report.source.path) if report.source else Path("model")
    return f"{path.parent.name}/{path.name}".lstrip("/")


def _figures(report: StageReport) -> dict[str, Any]:
    figures: dict[str, Any] = report.results["figures"]
    return figures


def _latency(report: StageReport) -> str:
    if not report.latency:
        return ""
    one = report.latency[0]
    return f"p50 {one.p50_ms:.3f} ms, {p99_text(one)}\nbatch {one.batch}, n = {len(one.samples_ms)}"


def _rate(report: StageReport) -> str:
    rate = _figures(report).get("images_per_s")
    return f"{rate:,.0f}" if rate else ""


def _power(report: StageReport) -> str:
    if not report.energy:
        return "not measured" if report.latency else ""
    one = report.energy[0]
    loaded, at_rest, *less = power_lines(one)
    return "\n".join([f"{loaded}, {at_rest}", one.source, *less])


def _energy(report: StageReport) -> str:
    if not report.energy:
        return "not measured" if report.latency else ""
    one = report.energy[0]
    value = " ".join(energy_lines(one.mj_per_image, one.half_width_mj))
    return f"{value}\nn = {one.load_samples:,} loaded, {one.idle_samples:,} at rest"


def _heat(report: StageReport) -> str:
    heat = _figures(report).get("heat") or {}
    if heat.get("highest_c") is None:
        return _unseen(report, heat)
    before = "unknown" if heat.get("before_c") is None else f"{heat['before_c']:g}"
    return f"{before} °C before, {heat['highest_c']:g} °C at most"


def _clock(report: StageReport) -> str:
    heat = _figures(report).get("heat") or {}
    clock = heat.get("gpu_mhz")
    locked = "locked" if report.results["board"]["clocks_locked"] else "not locked"
    if not clock:
        return _unseen(report, heat)
    source = "" if heat.get("clock_source") in (None, "tegrastats") else f"\nsaid by {heat['clock_source']}"
    return f"{clock['lowest']:g} to {clock['highest']:g} MHz, {locked}{source}"


def _unseen(report: StageReport, heat: dict[str, Any]) -> str:
    """Why there is no temperature or clock of a run that was timed."""
    if not report.latency:
        return ""
    return "said neither by tegrastats nor by the kernel" if heat.get("samples") else NO_SAMPLES


def _mode(report: StageReport) -> str:
    mode = report.results["board"]["power_mode"]
    return f"{mode['name']} (id {mode['id']})" if mode else "unknown"


def _accuracy(report: StageReport) -> str:
    if not report.accuracy:
        return ""
    one = report.accuracy[0]
    low, high = one.interval
    value, interval, n = top1_lines(Interval(value=one.top1, low=low, high=high), one.n)
    return f"{value} % {interval}\n{n}, {one.dataset} {one.split}"


def _reference(report: StageReport) -> str:
    found = _figures(report).get("agreement")
    if not found:
        return ""
    top1 = 100 * found["reference_correct_top1"] / found["n"]
    same = f"{top1:.2f} %, same class in {found['same_top1']} of {found['n']}"
    return "\n".join([same, *logits_lines(equal_bits=found["equal_bits"], sqnr_db=found["sqnr_db"])])


def _engine(report: StageReport) -> str:
    figures = _figures(report)
    return ", ".join(engine_lines(figures.get("engine_bytes"), figures.get("build_s")))


def _validity(report: StageReport) -> str:
    figures = _figures(report)
    if "is_valid" not in figures:
        return ""
    state, *why = state_lines(figures["is_valid"], figures["problems"])
    return f"{state}: " + "\n".join(why) if why else state


_ROWS: dict[str, Cell] = {
    "": _name,
    "precision": lambda report: report.precision or "",
    "latency": _latency,
    "images/s": _rate,
    "power": _power,
    "energy/image": _energy,
    "temperature": _heat,
    "GPU clock": _clock,
    "power mode": _mode,
    "top-1": _accuracy,
    "ONNX Runtime": _reference,
    "layers": lambda report: _figures(report).get("layers") or "",
    "engine": _engine,
    "valid": _validity,
}
