"""The boards' table: for the terminal, as Markdown, as CSV and on the page; a call on a board shows it turned round."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from edgeres.report.boards import BoardFigure, EnergyFigure
from edgeres.report.wording import Lines, interval_lines, p99_lines, percent, points, size, speed, tight

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

UNKNOWN_VALIDITY = "the GPU's clock was not seen under load"
_TERMINAL_WIDTHS = (10, 11, 13, 10, 12, 8, 7)  # break no figure; with what stands between 80 characters
_MOST_PLACES = 4
_MINUTE = len("2026-01-31 12:34")


def board_cells(board: BoardFigure) -> dict[str, Lines]:
    """The row's text by column of BOARD_COLUMNS."""
    return {title: tuple(lines(board)) for title, lines in _CELLS.items()}


def boards_table(boards: Sequence[BoardFigure]) -> RenderableType:
    """For `rich.print`: a row for each, and below the table why one is not valid."""
    from rich.console import Group
    from rich.text import Text

    table = _table("on boards")
    for title, width in zip(BOARD_COLUMNS, _TERMINAL_WIDTHS, strict=True):
        table.add_column(title, overflow="fold", width=width)
    for board in boards:
        cells = {**board_cells(board), _VALID: _state(board)[:1]}
        table.add_row(*(Text("\n".join(map(tight, lines))) for lines in cells.values()))
    said = {True: "", False: "is not valid", None: "may not be valid"}
    reasons = [f"{one.stage} {said[one.is_valid]}: {why}" for one in boards for why in _state(one)[1:]]
    return Group(table, *map(Text, reasons))


def boards_turned(boards: Sequence[BoardFigure]) -> RenderableType:
    """For `rich.print`: a column for each."""
    from rich.text import Text

    table = _table()
    for title in ("", *(board.model for board in boards)):
        table.add_column(Text(title), overflow="fold")
    columns = [board_cells(board) for board in boards]
    for title in BOARD_COLUMNS:
        table.add_row(title, *(Text("\n".join(cells[title])) for cells in columns))
    return table


def _table(title: str | None = None) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, show_lines=True)
    table.padding, table.pad_edge = (0, 1, 0, 0), False
    return table


def flat_board(board: BoardFigure) -> dict[str, object]:
    """Plain numbers with their units in the names; None where not measured."""
    latency, energy, accuracy = board.latency, board.energy, board.accuracy
    return {
        "name": board.stage,
        "model": board.model,
        "precision": board.precision,
        **{f"board_{name}": value for name, value in board.board.model_dump().items()},
        "is_valid": "unknown" if board.is_valid is None else board.is_valid,
        "p50_ms": latency.p50_ms.value if latency else None,
        "p50_low_ms": latency.p50_ms.low if latency else None,
        "p50_high_ms": latency.p50_ms.high if latency else None,
        "p99_ms": latency.p99_ms.value if latency and latency.p99_ms.is_known else None,
        "samples": latency.samples if latency else None,
        "batch": latency.batch if latency else None,
        "runtime": latency.runtime if latency else None,
        "images_per_s": board.images_per_s,
        "mj_per_image": energy.mj_per_image.value if energy else None,
        "mj_low": energy.mj_per_image.low if energy else None,
        "mj_high": energy.mj_per_image.high if energy else None,
        "load_w": energy.load_w if energy else None,
        "idle_w": energy.idle_w if energy else None,
        "energy_source": energy.source if energy else None,
        "top1": accuracy.top1.value if accuracy else None,
        "top1_low": accuracy.top1.low if accuracy else None,
        "top1_high": accuracy.top1.high if accuracy else None,
        "n": accuracy.n if accuracy else None,
        "points_vs_file": board.points.value if board.points else None,
        "same_top1": board.same_top1,
        "equal_bits": board.equal_bits,
        "sqnr_db": board.sqnr_db,
        "engine_bytes": board.engine_bytes,
        "build_s": board.build_s,
        "layers": board.layers,
        "problems": "; ".join(board.problems),
        "measured": board.measured,
        "measurements_of_file": board.measurements,
        "is_newest": board.is_newest,
    }


def _board(board: BoardFigure) -> Iterator[str]:
    facts = board.board
    yield facts.name or board.stage
    yield from (text for text in (facts.model or facts.gpu,) if text)
    yield from (f"JetPack {text}" for text in (facts.jetpack,) if text)
    yield from (f"TensorRT {text}" for text in (facts.tensorrt,) if text)
    yield from (text for text in (facts.power_mode,) if text)
    if facts.clocks_locked is not None:
        yield "clocks locked" if facts.clocks_locked else "clocks not locked"
    yield from (text for text in (board.heat,) if text)
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
    half = (energy.mj_per_image.high - energy.mj_per_image.low) / 2
    places = places_for(half)
    yield f"{energy.mj_per_image.value:.{places}f} mJ"
    yield f"± {half:.{places}f}"
    yield f"{energy.load_w:.2f} W loaded"
    yield f"{energy.idle_w:.2f} W at rest"
    yield f"n = {energy.samples:,}, {energy.source}"
    yield from _less_than_all(energy)


def _less_than_all(energy: EnergyFigure) -> Lines:
    if energy.is_partial:
        return ("some rails unread: less than all",)
    return () if energy.is_input else ("sum of rails: less than at the wall",)


def places_for(half_width: float) -> int:
    """Decimals that show a half-width, and what it belongs to, with two of its digits."""
    return min(_MOST_PLACES, max(0, 1 - math.floor(math.log10(half_width)))) if half_width > 0 else _MOST_PLACES


def _accuracy(board: BoardFigure) -> Iterator[str]:
    accuracy = board.accuracy
    if accuracy is None:
        yield "not evaluated"
    else:
        yield from (percent(accuracy.top1.value), f"[{percent(accuracy.top1.low)}, {percent(accuracy.top1.high)}]")
        yield f"n = {accuracy.n:,}"
    if board.points:
        yield from (f"{points(board.points)[0]} to the file here", *points(board.points)[1:])
    if board.reference_top1 is not None:
        yield f"ONNX Runtime {percent(board.reference_top1)}"
    if board.same_top1 is not None:
        yield f"same top-1 on {percent(board.same_top1)} %"
    if board.equal_bits:
        yield "logits equal bit for bit"
    elif board.sqnr_db is not None:
        yield f"logits {board.sqnr_db:.1f} dB"


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


_VALID = "Valid"
_CELLS: dict[str, Callable[[BoardFigure], Lines | Iterator[str]]] = {
    "Board": _board,
    "Model": lambda board: (board.model, board.precision or "precision unknown"),
    "Latency ms": _latency,
    "Energy, power": _energy,
    "Top-1 %": _accuracy,
    "Engine": _engine,
    _VALID: _state,
}
BOARD_COLUMNS = tuple(_CELLS)
