"""What a run did not measure, why, and the command that would."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgeres.report.networks import ENGINE_STAGE
from edgeres.report.summary import NotRun, Row

_ON_A_BOARD = "edgeres bench {} --on BOARD"
_ELSEWHERE = "an engine runs only on the GPU it was built for; judge accuracy on the ONNX file it was built from"


def absent_from(rows: Sequence[Row], *, run: str) -> tuple[NotRun, ...]:
    """One line for each network and kind of measurement that is missing."""
    return tuple(line for row in rows for line in _lines(row, run))


def _lines(row: Row, run: str) -> Iterator[NotRun]:
    if row.stage == ENGINE_STAGE:
        if row.latency is None:
            todo = _ON_A_BOARD.format("MODEL.onnx")
            yield NotRun(name=row.path, what="built, not run here", why=_ELSEWHERE, todo=todo)
        return
    if row.accuracy is None:
        todo = f"edgeres eval runs/{run}/{row.path}"
        yield NotRun(name=row.path, what="accuracy", why=row.accuracy_missing, todo=todo)
    if row.latency is None:
        is_for_a_board = "placed for TensorRT" in row.latency_reason
        todo = _ON_A_BOARD.format(f"runs/{run}/{row.path}") if is_for_a_board else f"edgeres bench --run {run}"
        why = (row.latency_reason or row.latency_missing).partition(";")[0]
        yield NotRun(name=row.path, what="latency", why=why, todo=todo)
