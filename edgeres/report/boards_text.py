"""The boards' table: for the terminal, as Markdown, as CSV and on the page; its words are those of `bench --on` too."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from edgeres.core.metrics import Energy
from edgeres.core.statistics import Interval
from edgeres.report.boards import BoardFigure, EnergyFigure
from edgeres.report.wording import Lines, interval_lines, p99_lines, percent, points, size, speed, tight

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

BOARD_COLUMNS: dict[str, str] = {
    "board": "Board",
    "model": "Model",
    "latency": "Latency ms",
    "energy": "Energy, power",
    "top1": "Top-1 %",
    "engine": "Engine",
    "state": "Valid",
}
UNKNOWN_VALIDITY = "the GPU's clock was not seen under load"
_TERMINAL_WIDTHS = (10, 11, 13, 10, 12, 8, 7)  # break no figure; with what stands between 80 characters
_MOST_PLACES = 4
_MINUTE = len("2026-01-31 12:34")


def board_cells(board: BoardFigure) -> dict[str, Lines]:
    """The row's text by column of BOARD_COLUMNS."""
    return {
        "board": tuple(_board(board)),
        "model": (board.model, board.precision or "precision unknown"),
        "latency": tuple(_latency(board)),
        "energy": tuple(_energy(board.energy)),
        "top1": tuple(_accuracy(board)),
        "engine": tuple(_engine(board)),
        "state": _state(board),
    }


def energy_lines(mj: float, half_width_mj: float) -> Lines:
    """`9.50 mJ`, `± 0.25`: two digits of the half-width."""
    places = places_for(half_width_mj)
    return f"{mj:.{places}f} mJ", f"± {half_width_mj:.{places}f}"


def power_lines(energy: Energy | EnergyFigure) -> Lines:
    """`11.25 W loaded`, `4.75 W at rest`, and what a sum of rails is less than."""
    loaded, at_rest = f"{energy.load_w:.2f} W loaded", f"{energy.idle_w:.2f} W at rest"
    if energy.is_partial:
        return loaded, at_rest, "some rails unread: less than all"
    return (loaded, at_rest) if energy.is_input else (loaded, at_rest, "sum of rails: less than at the wall")


def top1_lines(top1: Interval, n: int) -> Lines:
    """`93.33`, `[91.20, 94.90]` in percent, `n = 1,000`."""
    return percent(top1.value), f"[{percent(top1.low)}, {percent(top1.high)}]", f"n = {n:,}"


def logits_lines(*, equal_bits: bool | None, sqnr_db: float | None) -> Lines:
    """How far the board's logits are from ONNX Runtime's."""
    if equal_bits:
        return ("logits equal bit for bit",)
    return () if sqnr_db is None else (f"logits {sqnr_db:.1f} dB",)


def engine_lines(size_bytes: int | None, build_s: float | None) -> Lines:
    """`1.50 MB`, `built in 93 s`, what is known of them."""
    said = "" if size_bytes is None else size(size_bytes), "" if build_s is None else f"built in {build_s:.0f} s"
    return tuple(text for text in said if text)


def state_lines(is_valid: bool | None, problems: Sequence[str]) -> Lines:
    """Whether a measurement can be trusted, then why not."""
    if is_valid is None:
        return "unknown", UNKNOWN_VALIDITY
    return "yes" if is_valid else "no", *problems


def places_for(half_width: float) -> int:
    """Decimals that show a half-width, and what it belongs to, with two of its digits."""
    return min(_MOST_PLACES, max(0, 1 - math.floor(math.log10(half_width)))) if half_width > 0 else _MOST_PLACES


def _state(board: BoardFigure) -> Lines:
    if board.latency is None:
        return "not timed", *board.problems
    return state_lines(board.is_valid, board.problems)


def boards_table(boards: Sequence[BoardFigure]) -> RenderableType:
    """For `rich.print`: the table, and below it why a row is not valid."""
    from rich.console import Group
    from rich.text import Text

    said = {True: "", False: "is not valid", None: "may not be valid"}
    reasons = [f"{one.stage} {said[one.is_valid]}: {why}" for one in boards for why in _state(one)[1:]]
    return Group(_table(boards), *map(Text, reasons))


def _table(boards: Sequence[BoardFigure]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(title="on boards", title_justify="left")
    table.box, table.show_edge, table.show_lines = SIMPLE_HEAD, False, True
    table.padding, table.pad_edge = (0, 1, 0, 0), False
    for title, width in zip(BOARD_COLUMNS.values(), _TERMINAL_WIDTHS, strict=True):
        table.add_column(title, overflow="fold", width=width)
    for board in boards:
        texts = {**board_cells(board), "state": _state(board)[:1]}
        table.add_row(*(Text("\n".join(map(tight, texts[name]))) for name in BOARD_COLUMNS))
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
    yield from (text for text in (facts.model,) if text)
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


def _energy(energy: EnergyFigure | None) -> Iterator[str]:
    if energy is None:
        yield "not measured"
        return
    value, half = energy.mj_per_image, (energy.mj_per_image.high - energy.mj_per_image.low) / 2
    loaded, at_rest, *less = power_lines(energy)
    yield from (*energy_lines(value.value, half), loaded, at_rest)
    yield f"n = {energy.samples:,}, {energy.source}"
    yield from less


def _accuracy(board: BoardFigure) -> Iterator[str]:
    accuracy = board.accuracy
    if accuracy is None:
        yield "not evaluated"
    else:
        yield from top1_lines(accuracy.top1, accuracy.n)
    if board.points:
        yield from (f"{points(board.points)[0]} to the file here", *points(board.points)[1:])
    if board.same_top1 is not None:
        yield f"same top-1 on {percent(board.same_top1)} %"
    yield from logits_lines(equal_bits=board.equal_bits, sqnr_db=board.sqnr_db)


def _engine(board: BoardFigure) -> Iterator[str]:
    layers = (board.layers,) if board.layers else ()
    yield from (*engine_lines(board.engine_bytes, board.build_s), *layers) or ("–",)
