"""The networks of a run with their raw measurements, and two of them held against each other image by image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tokenize import TokenError

import numpy as np
from numpy.typing import NDArray

from edgeres.core.config import Record
from edgeres.core.metrics import Accuracy, Latency, paired_difference, wilson
from edgeres.core.statistics import Interval
from edgeres.evaluate.agreement import mcnemar
from edgeres.report.folder import FinishedStage, RunFolder

Table = NDArray[np.uint16]
_COLUMNS = 2  # prediction and label
ENGINE_STAGE = "compile"


@dataclass(frozen=True)
class Network:
    """What one stage made; `path` is relative to the run, `not_timed` says why there is no latency."""

    name: str
    stage: str
    path: str
    folder: Path
    sha256: str
    parent: str | None
    size_bytes: int
    macs: int
    params: int
    precision: str
    dropped: tuple[str, ...]
    accuracy: Accuracy | None
    latency: Latency | None
    not_timed: str = ""

    @cached_property
    def predictions(self) -> Table | None:
        """See `predictions_in`."""
        return predictions_in(self.folder, self.accuracy)


class Pair(Record):
    """B against A on the same images: `same` guess alike, only A or only B is right on `only_a` and `only_b`."""

    n: int
    same: int
    only_a: int
    only_b: int

    @property
    def agreement(self) -> Interval:
        """Share of images with the same top-1, with its Wilson interval."""
        low, high = wilson(self.same, self.n)
        return Interval(value=self.same / self.n, low=low, high=high)

    @property
    def points(self) -> Interval:
        """Top-1 of B minus that of A in percentage points, paired."""
        a, b = np.zeros(self.n, bool), np.zeros(self.n, bool)
        a[: self.only_a], b[self.only_a : self.only_a + self.only_b] = True, True
        difference, half = (100 * value for value in paired_difference(a.tolist(), b.tolist()))
        return Interval(value=difference, low=difference - half, high=difference + half)

    @property
    def p_value(self) -> float:
        """Exact McNemar test of equal accuracy."""
        return mcnemar(self.only_a, self.only_b)


def predictions_in(folder: Path, accuracy: Accuracy | None) -> Table | None:
    """uint16 (n, 2) of prediction and label; None if absent, damaged or of other images than the accuracy."""
    if accuracy is None or accuracy.predictions is None:
        return None
    path = folder / Path(accuracy.predictions).name
    if not path.is_file():
        return None
    try:
        table: Table = np.load(path, mmap_mode="r", allow_pickle=False)  # what a header claims is not read into memory
    except (OSError, ValueError, EOFError, OverflowError, TokenError):
        return None
    is_whole = isinstance(table, np.ndarray) and table.shape == (accuracy.n, _COLUMNS)
    return table if is_whole and int((table[:, 0] == table[:, 1]).sum()) == accuracy.correct_top1 else None


def networks_in(folder: RunFolder) -> list[Network]:
    """In order of the stages."""
    return [_network_from(stage, folder) for stage in folder.networks]


def pair_of(a: Network, b: Network) -> Pair | str:
    """How the two compare, or why that cannot be said."""
    for one in (a, b):
        if one.accuracy is None:
            return f"{one.name} is not evaluated"
    assert a.accuracy is not None
    assert b.accuracy is not None
    judged = [f"{x.dataset} {x.split}, n = {x.n:,}" for x in (a.accuracy, b.accuracy)]
    if judged[0] != judged[1]:
        return f"judged on different images: {judged[0]}; {judged[1]}"
    for one in (a, b):
        if one.predictions is None:
            return f"the predictions of {one.name} are missing or damaged"
    return _paired(a.predictions, b.predictions)


def newest_evaluated(networks: Sequence[Network]) -> Network | None:
    """The last network whose accuracy is known."""
    return next((one for one in reversed(networks) if one.accuracy), None)


def _paired(a: Table | None, b: Table | None) -> Pair | str:
    assert a is not None
    assert b is not None
    if not np.array_equal(a[:, 1], b[:, 1]):
        return "judged on different images: their labels differ"
    right_a, right_b = a[:, 0] == a[:, 1], b[:, 0] == b[:, 1]
    return Pair(
        n=len(a),
        same=int((a[:, 0] == b[:, 0]).sum()),
        only_a=int((right_a & ~right_b).sum()),
        only_b=int((right_b & ~right_a).sum()),
    )


def _network_from(stage: FinishedStage, folder: RunFolder) -> Network:
    report, output = stage.report, stage.report.output
    assert output is not None
    assert report.cost is not None
    latency = folder.latencies.get(output.sha256)
    return Network(
        name=stage.name,
        stage=report.stage,
        path=f"{stage.name}/{Path(output.path).name}",
        folder=stage.path,
        sha256=output.sha256,
        parent=report.source.sha256 if report.source else None,
        size_bytes=output.size_bytes,
        macs=report.cost.macs,
        params=report.cost.params,
        precision=report.precision or "",
        dropped=report.dropped,
        accuracy=next((one for one in stage.accuracy if one.artifact == output.sha256), None),
        latency=latency,
        not_timed="" if latency else folder.skipped.get(output.sha256, "not timed"),
    )
