"""The one table and that of the boards: for the terminal, as Markdown, as CSV; a call on a board shows it turned."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from edgeres.core.safe_text import csv_text, one_line
from edgeres.report.boards import UNKNOWN_VALIDITY, UNSURE, BoardFigure
from edgeres.report.figures import Change
from edgeres.report.summary import Row, RunSummary
from edgeres.report.wording import (
    COLUMNS,
    Lines,
    cells,
    closeness_lines,
    columns_of,
    flat,
    flat_interval,
    flat_latency,
    interval_lines,
    markdown_table,
    markdown_text,
    p99_lines,
    percent,
    points,
    size,
    speed,
    terminal_table,
    top1_lines,
)

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

_BOARD_WIDTHS = (14, 11, 13, 11, 13, 8)  # break no figure, rail or power mode; with what stands between 80 characters
_MOST_TURNED = 4  # columns of which that is true
_MOST_PLACES = 4
_MINUTE = len("2026-01-31 12:34")
_TERMINAL = {  # title: (what shares the column, its width), 80 characters in all; the first takes what more there is
    "Stage": (("stage", "what", "precision"), {"min_width": 11}),
    COLUMNS["top1"]: (("top1",), {"width": 13}),
    "Cost": (("params", "macs", "size"), {"width": 7}),
    "Latency ms": (("latency",), {"width": 13}),
    "Against first": (("first",), {"width": 13}),
    "Against previous": (("previous",), {"width": 13}),
}


def board_cells(board: BoardFigure) -> dict[str, Lines]:
    """The row's text by column."""
    return {title: tuple(lines(board)) for title, lines in _CELLS.items()}


def board_columns(boards: Sequence[BoardFigure]) -> tuple[str, ...]:
    """The titles: another where models are judged by how near they are to a network."""
    is_near = any(board.closeness for board in boards)
    return tuple("Closeness" if is_near and title == _JUDGED else title for title in _CELLS)


def boards_table(boards: Sequence[BoardFigure]) -> RenderableType:
    """For `rich.print`: a row for each, valid or not below its times, and below the table why one is not."""
    from rich.console import Group
    from rich.text import Text

    titles = board_columns(boards)[:-1]
    columns = [(title, {"width": width}) for title, width in zip(titles, _BOARD_WIDTHS, strict=True)]
    rows = [_cells_with_state(board) for board in boards]
    said = {True: "", False: "not valid", None: UNSURE}
    of: dict[str, list[str]] = {}
    for one in boards:
        for why in _state(one)[1:]:
            of.setdefault(f"{said[one.is_valid]}: {why}", []).append(one.stage)
    reasons = [f"{', '.join(names)} {reason}" for reason, names in of.items()]
    return Group(terminal_table("on boards", columns, rows), *(Text(one_line(reason)) for reason in reasons))


def _cells_with_state(board: BoardFigure) -> list[Lines]:
    cells = board_cells(board)
    valid, *_ = cells.pop(_VALID)
    return [
        (*lines, f"valid: {valid}") if title == _TIMED and board.latency else lines for title, lines in cells.items()
    ]


def boards_turned(boards: Sequence[BoardFigure]) -> RenderableType:
    """For `rich.print`: a column for each, a few in a table."""
    from rich.console import Group

    cells, titles = [board_cells(board) for board in boards], board_columns(boards)
    tables: list[RenderableType] = []
    for start in range(0, len(boards), _MOST_TURNED):
        some = slice(start, start + _MOST_TURNED)
        rows = [[(shown,), *(one[title] for one in cells[some])] for shown, title in zip(titles, _CELLS, strict=True)]
        tables += ["", terminal_table("", [("", {}), *((board.model, {}) for board in boards[some])], rows)]
    return Group(*tables[1:])


def flat_board(board: BoardFigure) -> dict[str, object]:
    """Plain numbers with their units in the names; None where not measured."""
    latency, energy, accuracy, near = board.latency, board.energy, board.accuracy, board.closeness
    return {
        "name": board.stage,
        **flat(board, "model", "precision"),
        **{f"board_{name}": value for name, value in board.board.model_dump().items()},
        "is_valid": "unknown" if latency and board.is_valid is None else board.is_valid,
        **flat_latency(latency),
        **flat(latency, "samples", "batch", "runtime"),
        "images_per_s": board.images_per_s,
        **flat_interval(energy and energy.mj_per_image, "mj_per_image", "mj_low", "mj_high"),
        **flat(energy, "load_w", "idle_w"),
        "energy_source": energy.source if energy else None,
        **flat_interval(accuracy and accuracy.top1, "top1", "top1_low", "top1_high"),
        **flat(accuracy, "n"),
        **flat_interval(board.points, "points_vs_file"),
        **flat(board, "same_top1", "equal_bits", "sqnr_db", "engine_bytes", "build_s", "layers"),
        "problems": "; ".join(board.problems),
        "measured": board.measured,
        "measurements_of_file": board.measurements,
        "is_newest": board.is_newest,
        **({"closeness": near.measure, "closeness_mean": near.mean, "closeness_worst": near.worst} if near else {}),
    }


def _board(board: BoardFigure) -> Iterator[str]:
    facts = board.board
    jetpack, tensorrt = facts.jetpack and f"JetPack {facts.jetpack}", facts.tensorrt and f"TensorRT {facts.tensorrt}"
    clocks = {None: "", True: "clocks locked", False: "clocks not locked"}[facts.clocks_locked]
    where, what = facts.host and f"at {facts.host}", facts.model or facts.gpu
    said = (where, what, jetpack, tensorrt, facts.power_mode, clocks, board.heat)
    yield from (facts.name or board.stage, *filter(None, said))
    if board.measurements > 1:
        yield f"measured {board.measured.replace('T', ' ')[:_MINUTE]} UTC"
        yield f"the newest of {board.measurements}" if board.is_newest else "measured again since"


def _latency(board: BoardFigure) -> Iterator[str]:
    latency = board.latency
    if latency is None:
        yield "not timed"
        return
    yield from interval_lines("p50", latency.p50_ms)
    yield from p99_lines(latency)
    yield f"n = {latency.samples:,}, batch {latency.batch}"
    if board.images_per_s is not None:
        yield f"{board.images_per_s:,.0f} images/s"
    if board.speed:
        yield from (f"{speed(board.speed)[0]} of {board.speed.versus}", *speed(board.speed)[1:])


def _energy(board: BoardFigure) -> Iterator[str]:
    energy = board.energy
    if energy is None:
        yield "not measured"
        return
    half, places = (energy.mj_per_image.high - energy.mj_per_image.low) / 2, _MOST_PLACES
    if half > 0:  # two digits of it
        places = min(_MOST_PLACES, max(0, 1 - math.floor(math.log10(half))))
    yield f"{energy.mj_per_image.value:.{places}f} mJ"
    yield f"± {half:.{places}f}"
    yield f"{energy.load_w:.2f} W loaded"
    yield f"{energy.idle_w:.2f} W at rest"
    yield f"n = {energy.samples:,}, {energy.source}"
    if energy.is_partial:
        yield "some rails unread: less than all"
    elif not energy.is_input:
        yield "sum of rails: less than at the wall"


def _accuracy(board: BoardFigure) -> Iterator[str]:
    if board.closeness:
        yield from closeness_lines(board.closeness)
    elif board.accuracy is None:
        yield "not evaluated"
    else:
        yield from top1_lines(board.accuracy.top1, board.accuracy.n)
    if board.points:
        yield from (f"{points(board.points)[0]} to the file here", *points(board.points)[1:])
    if board.reference_top1 is not None:
        yield f"ONNX Runtime {percent(board.reference_top1)}"
    if board.same_top1 is not None:
        yield f"same top-1 on {percent(board.same_top1)} %"
    what = "logits" if board.closeness is None else "outputs"
    if board.equal_bits:
        yield f"{what} equal bit for bit"
    elif board.sqnr_db is not None:
        yield f"{what} {board.sqnr_db:.1f} dB"


def _engine(board: BoardFigure) -> Lines:
    size_bytes = "" if board.engine_bytes is None else size(board.engine_bytes)
    build = "" if board.build_s is None else f"built in {board.build_s:.0f} s"
    return tuple(filter(None, (size_bytes, build, board.layers))) or ("–",)


def _state(board: BoardFigure) -> Lines:
    """Whether a measurement can be trusted, then why not."""
    if board.latency is None:
        return "not timed", *board.problems
    if board.is_valid is None:
        return "unknown", UNKNOWN_VALIDITY
    return "yes" if board.is_valid else "no", *board.problems


_VALID, _JUDGED, _TIMED = "Valid", "Top-1 %", "Latency ms"
_CELLS: dict[str, Callable[[BoardFigure], Lines | Iterator[str]]] = {
    "Board": _board,
    "Model": lambda board: (board.model, board.precision or "precision unknown"),
    _TIMED: _latency,
    "Energy, power": _energy,
    _JUDGED: _accuracy,
    "Engine": _engine,
    _VALID: _state,
}


def table_from(summary: RunSummary) -> RenderableType:
    """For `rich.print`: six columns of a few lines each, and below them what boards measured last."""
    newest = [one for one in summary.boards if one.is_newest]
    if not newest:
        return _stages_table(summary)
    from rich.console import Group

    return Group(_stages_table(summary), "", boards_table(newest))


def _stages_table(summary: RunSummary) -> Table:
    texts, titles = [cells(row) for row in summary.rows], {COLUMNS["top1"]: columns_of(summary.rows)["top1"]}
    rows = [[tuple(line for name in names for line in text[name]) for names, _ in _TERMINAL.values()] for text in texts]
    columns = [(titles.get(title, title), width) for title, (_, width) in _TERMINAL.items()]
    return terminal_table(summary.run, columns, rows)


def markdown_from(summary: RunSummary) -> str:
    """The whole table with the headline above it and what is missing below it."""
    lines = [f"# {markdown_text(summary.run)}", "", markdown_text(summary.headline), ""]
    lines += [line for goal in summary.goals for line in (markdown_text(goal), "")]
    rows = [cells(row) for row in summary.rows]
    columns = columns_of(summary.rows)
    lines += markdown_table(columns.values(), [[texts[name] for name in columns] for texts in rows])
    if summary.boards:
        boards = [board_cells(board).values() for board in summary.boards]
        lines += ["", "## On boards", "", *markdown_table(board_columns(summary.boards), boards)]
    lines += ["", *(f"- {markdown_text(line)}" for line in _conditions(summary))]
    return "\n".join(lines) + "\n"


def csv_from(summary: RunSummary) -> str:
    """One line a row, plain numbers with their units in the column names; empty where not measured."""
    return csv_text([_flat(row) for row in summary.rows])


def boards_csv_from(summary: RunSummary) -> str:
    """The same of what boards measured."""
    return csv_text([flat_board(board) for board in summary.boards])


def _conditions(summary: RunSummary) -> Iterator[str]:
    """What the figures belong to, then what is to be done."""
    yield "Intervals are 95 %: Wilson for top-1, paired for its changes, bootstrap over rounds for latency."
    yield from (f"Latency: {condition}." for condition in summary.timed_conditions)
    judged = {f"{row.accuracy.dataset} {row.accuracy.split}" for row in summary.rows if row.accuracy}
    yield from (f"Accuracy: {condition}." for condition in sorted(judged))
    near = {f"{row.closeness.dataset} {row.closeness.split}" for row in summary.rows if row.closeness}
    yield from (f"Closeness to the first network: {condition}." for condition in sorted(near))
    yield from (f"Warning: {problem}." for problem in summary.problems)
    yield from (f"Not run: {one.name}, {one.what}: {one.why}; {one.todo}." for one in summary.absent)
    yield from (f"Warning: {warning}." for warning in summary.warnings)


def _flat(row: Row) -> dict[str, object]:
    accuracy, near, own, latency = row.accuracy, row.closeness, row.metric, row.latency
    first, previous = row.versus_first, row.versus_previous
    return {
        **flat(row, "name", "stage", "what", "precision", "sha256", "parent", "params", "macs", "size_bytes"),
        **flat_interval(accuracy and accuracy.top1, "top1", "top1_low", "top1_high"),
        **flat(accuracy, "top5", "n"),
        **flat_latency(latency),
        **flat(latency, "batch", "runtime", "machine"),
        **_flat_change("points_vs_first", first.points),
        **_flat_change("points_vs_previous", previous.points),
        **_flat_change("latency_ratio_vs_first", first.latency_ratio),
        **_flat_change("latency_ratio_vs_previous", previous.latency_ratio),
        **flat_interval(first.size_ratio, "size_ratio_vs_first"),
        **flat(row, "accuracy_missing", "latency_missing"),
        **({"closeness": near.measure, "closeness_mean": near.mean, "closeness_worst": near.worst} if near else {}),
        **({"metric": own.name, "metric_value": own.value, "metric_half_width": own.half_width} if own else {}),
    }


def _flat_change(name: str, change: Change | None) -> dict[str, object]:
    return {**flat_interval(change, name, f"{name}_low", f"{name}_high"), f"{name}_is": change.versus if change else ""}
