"""What changed between two rows, only where they were measured under the same conditions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeres.core.errors import InputError
from edgeres.core.metrics import Accuracy, Latency, paired_difference
from edgeres.core.statistics import ratio_interval
from edgeres.report.figures import Change
from edgeres.report.folder import FinishedStage, RunFolder
from edgeres.report.networks import predictions_in


@dataclass(frozen=True)
class Measured:
    """A row's raw measurements; `folder` is where the predictions file lies."""

    name: str
    size_bytes: int
    folder: Path
    accuracy: Accuracy | None
    latency: Latency | None


def measured_from(stage: FinishedStage, folder: RunFolder) -> Measured:
    """What was measured here of the network that `stage` made."""
    assert stage.report.output is not None
    output = stage.report.output
    accuracy = next((one for one in stage.accuracy if one.artifact == output.sha256), None)
    return Measured(stage.name, output.size_bytes, stage.path, accuracy, folder.latencies.get(output.sha256))


def points_between(before: Measured, after: Measured) -> Change | None:
    """Percentage points of top-1; None unless both were judged on one split of one data set.

    The interval is paired and needs both predictions files, on the same images in the same order.
    """
    a, b = before.accuracy, after.accuracy
    if a is None or b is None or (a.dataset, a.split, a.n) != (b.dataset, b.split, b.n):
        return None
    pair = predictions_in(before.folder, a), predictions_in(after.folder, b)
    if pair[0] is None or pair[1] is None or not np.array_equal(pair[0][:, 1], pair[1][:, 1]):
        return Change(value=100 * (b.top1 - a.top1), versus=before.name)
    difference, half = paired_difference(*(list(table[:, 0] == table[:, 1]) for table in pair if table is not None))
    return Change(
        value=100 * difference,
        low=100 * (difference - half),
        high=100 * (difference + half),
        versus=before.name,
    )


def latency_between(before: Measured, after: Measured) -> Change | None:
    """Ratio of medians; None unless both were timed in one session and runtime, whose gain is not the model's.

    Nor is a measurement held against itself, as that of a file which two stages made.
    """
    if before.latency is None or after.latency is None or before.latency.runtime != after.latency.runtime:
        return None
    if before.latency == after.latency:
        return None
    try:
        ratio = ratio_interval(before.latency, after.latency)
    except InputError:
        return None
    return Change(value=ratio.value, low=ratio.low, high=ratio.high, versus=before.name)


def size_between(before: Measured, after: Measured) -> Change | None:
    """Ratio of file sizes."""
    if not before.size_bytes:
        return None
    return Change(value=after.size_bytes / before.size_bytes, versus=before.name)
