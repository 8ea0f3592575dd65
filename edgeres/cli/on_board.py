"""What boards measured, as one table: a column for each model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from edgeres.cli.output import p99_text
from edgeres.core.stage import StageReport
from edgeres.report.boards import NO_SAMPLES
from edgeres.report.boards_text import UNKNOWN_VALIDITY, places_for
from edgeres.report.wording import size

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
    kind = "" if one.is_input else ", sum of rails" + (", some unread" if one.is_partial else "")
    return f"{one.load_w:.2f} W load, {one.idle_w:.2f} W idle\n{one.source}{kind}"


def _energy(report: StageReport) -> str:
    if not report.energy:
        return "not measured" if report.latency else ""
    one = report.energy[0]
    places = places_for(one.half_width_mj)
    value = f"{one.mj_per_image:.{places}f} ± {one.half_width_mj:.{places}f} mJ"
    return f"{value}\nn = {one.load_samples} load, {one.idle_samples} idle"


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
    return f"{clock['lowest']:g} to {clock['highest']:g} MHz, {locked}" if clock else _unseen(report, heat)


def _unseen(report: StageReport, heat: dict[str, Any]) -> str:
    """Why there is no temperature or clock of a run that was timed."""
    if not report.latency:
        return ""
    return "not printed by tegrastats" if heat.get("samples") else NO_SAMPLES


def _mode(report: StageReport) -> str:
    mode = report.results["board"]["power_mode"]
    return f"{mode['name']} (id {mode['id']})" if mode else "unknown"


def _accuracy(report: StageReport) -> str:
    if not report.accuracy:
        return ""
    one = report.accuracy[0]
    low, high = one.interval
    return f"{100 * one.top1:.2f} % (95 %: {100 * low:.2f} to {100 * high:.2f})\nn = {one.n}, {one.dataset} {one.split}"


def _reference(report: StageReport) -> str:
    found = _figures(report).get("agreement")
    if not found:
        return ""
    noise = "equal bit for bit" if found["sqnr_db"] is None else f"SQNR {found['sqnr_db']:.1f} dB"
    top1 = 100 * found["reference_correct_top1"] / found["n"]
    return f"{top1:.2f} %, same class in {found['same_top1']} of {found['n']}\nlogits: {noise}"


def _engine(report: StageReport) -> str:
    figures = _figures(report)
    built = f", built in {figures['build_s']:.1f} s" if figures.get("build_s") else ""
    return f"{size(figures['engine_bytes'])}{built}" if figures.get("engine_bytes") else ""


def _validity(report: StageReport) -> str:
    figures = _figures(report)
    if "is_valid" not in figures:
        return ""
    if figures["is_valid"] is None:
        return f"unknown: {UNKNOWN_VALIDITY}"
    return "yes" if figures["is_valid"] else "NO: " + "\n".join(figures["problems"])


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
