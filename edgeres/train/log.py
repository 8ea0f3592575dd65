"""One row an epoch: log.csv, the log line, and TensorBoard events if asked for."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from edgeres.core.errors import require
from edgeres.core.files import write_text
from edgeres.core.plain import csv_text

Row = dict[str, float]
LOG_NAME = "log.csv"
COLUMNS = ("epoch", "step", "lr", "loss", "images_per_s", "val_top1")


class Journal:
    """The rows so far; log.csv is always all of them, so a resumed run leaves the usual log."""

    def __init__(self, out_dir: Path, *, tensorboard: bool) -> None:
        self.rows: list[Row] = []
        self._out_dir = out_dir
        self._board = _board(out_dir) if tensorboard else None

    def add(self, row: Row, *, write: bool) -> None:
        """Appends the row; with `write`, to the files too."""
        self.rows.append(row)
        if write:
            texts = [{name: f"{value:.6g}" for name, value in row.items()} for row in self.rows]
            write_text(self._out_dir / LOG_NAME, csv_text(texts, COLUMNS))
            self._show(row)

    def _show(self, row: Row) -> None:
        if self._board is None:
            return
        for name in row.keys() - {"epoch", "step"}:
            self._board.add_scalar(name, row[name], int(row["step"]))
        self._board.flush()


class Pace:
    """Images per second of training alone: what happens between `lap` and `start` is not counted."""

    def __init__(self, batch: int) -> None:
        self._batch, self._steps, self._duration_s = batch, 0, 0.0
        self.start(0)

    def start(self, step: int) -> None:
        """Begins to count at `step`."""
        self._first, self._begun_s = step, time.perf_counter()

    def lap(self, step: int) -> float:
        """Images per second since `start`."""
        steps, duration_s = step - self._first, time.perf_counter() - self._begun_s
        self._steps += steps
        self._duration_s += duration_s
        return steps * self._batch / duration_s

    @property
    def images_per_s(self) -> float:
        """Over all laps; 0 if there was none."""
        return self._steps * self._batch / self._duration_s if self._steps else 0.0


def described(row: Row) -> str:
    """The row as one log line."""
    text = f"loss {row['loss']:.4f}, lr {row['lr']:.4g}, {row['images_per_s']:.0f} images/s"
    return text + (f", val top-1 {row['val_top1']:.2%}" if "val_top1" in row else "")


def _board(out_dir: Path) -> Any:
    require("tensorboard", "tensorboard")
    return require("torch.utils.tensorboard", "tensorboard").SummaryWriter(str(out_dir / "tensorboard"))
