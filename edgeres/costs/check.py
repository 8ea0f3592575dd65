"""The prediction against the clock: the pruned network and the one it was cut from, timed in one session.

    ratio  = median of the pruned network / median of the whole one, measured now, interleaved
    error  = ratio / predicted ratio - 1

A target relative to the whole network (0.8x) is judged on the ratio. A target in milliseconds is judged twice, and the
worse verdict counts: on the median as measured now, which is what the user asked for, and on the ratio times the whole
network's latency in the table. A machine's speed drifts by several percent between sessions; a fast moment alone must
not make a promise that the next one breaks, and the table's session, longer and of more processes, is the second
opinion on what the whole network takes.

A table of a board is checked on that board: here the prediction itself is judged, `is_measured` says so, and what only
a measurement gives is None.

What a miss is short of comes back in the table's milliseconds, so that a search can ask for that much more and choose
again (`missing_ms`).
"""

from __future__ import annotations

import logging
from pathlib import Path

from edgeres.bench.stage import Session, measure
from edgeres.core.amounts import Target
from edgeres.core.artifacts import Checkpoint
from edgeres.core.config import Record
from edgeres.core.files import scratch_in
from edgeres.core.lineage import advised
from edgeres.core.metrics import Interval
from edgeres.core.records.latency import LatencyTable
from edgeres.core.runs import run_holding
from edgeres.core.statistics import percentile_interval, ratio_interval
from edgeres.costs.design import pooled
from edgeres.costs.networks import Measure, as_executed, session_config
from edgeres.costs.table import check_table, predicted_ms

log = logging.getLogger(__name__)
_COPIES = (3, 6)  # processes of each network, first and where that leaves it open: starts differ by up to 1 %


class Checked(Record):
    """A pruned network re-measured; `error_percent` is positive where it is slower than predicted.

    `table_whole_ms` is what the table says of the network it was cut from, `predicted_ms` of the pruned one; the
    latencies and their ratio are of this session, None without one. `predicted_whole_ms` is `table_whole_ms` with its
    interval. `engine` says as what it runs and by which table, `advice` how to measure it, where it was only predicted.
    """

    dropped: tuple[str, ...]
    session: str
    machine: str
    whole_ms: Interval | None = None
    pruned_ms: Interval | None = None
    ratio: Interval | None = None
    table_whole_ms: float
    predicted_ms: Interval
    predicted_ratio: float
    error_percent: float | None = None
    warnings: tuple[str, ...] = ()
    is_measured: bool = True
    predicted_whole_ms: Interval | None = None
    engine: str = ""
    advice: str = ""

    @property
    def share(self) -> float:
        """Of the whole network's latency: measured, or predicted where it was not."""
        return self.ratio.value if self.ratio else self.predicted_ratio

    def missing_ms(self, target: Target) -> float:
        """What must be saved besides, in the table's milliseconds; 0 if the target is met."""
        short = self.share * self.table_whole_ms - target.of(self.table_whole_ms)
        if not target.is_ratio and self.pruned_ms and self.whole_ms:
            now = (self.pruned_ms.value - target.value) / self.whole_ms.value * self.table_whole_ms
            short = max(short, now)
        return max(short, 0.0)

    def is_open(self, target: Target) -> bool:
        """Whether the target is missed by less than the measurement can tell: the interval reaches below it."""
        if self.ratio is None or self.pruned_ms is None:
            return False
        wanted = target.of(self.table_whole_ms)
        reaches = self.ratio.low * self.table_whole_ms <= wanted
        if not target.is_ratio:
            reaches = reaches and self.pruned_ms.low <= target.value
        return reaches and self.missing_ms(target) > 0

    def line(self) -> str:
        """The outcome for people."""
        if self.pruned_ms is None or self.whole_ms is None or self.ratio is None:
            return (
                f"predicted {self.predicted_ms.value:.3f} ms {self.engine}, {self.predicted_ratio:.3f} of the"
                f" {self.table_whole_ms:.3f} ms before; NOT measured: {self.advice}"
            )
        return (
            f"measured {self.pruned_ms.value:.3f} ms, {self.ratio.value:.3f} ({self.ratio.bounds()}) of the"
            f" {self.whole_ms.value:.3f} ms before; predicted"
            f" {self.predicted_ratio:.3f}: off by {self.error_percent:+.1f} %"
        )


def check_prediction(
    pruned: Checkpoint,
    whole: Checkpoint,
    table: LatencyTable,
    *,
    folder: Path,
    target: Target | None = None,
    measure: Measure = measure,
) -> Checked:
    """Times `pruned` against `whole` under the table's conditions; throw-away files go into `folder`.

    A miss of `target` that the interval leaves open is measured again, in more processes; the later figures count.

    Raises InputError if the table is not of these networks.
    """
    for network in (whole, pruned):
        check_table(table, network.spec)
    predicted = _predicted(pruned, whole, table)
    if table.is_of_board:
        return predicted
    with scratch_in(folder) as place:
        models = as_executed([whole, pruned], table.conditions, place)
        for copies in _COPIES:
            checked = _measured(predicted, measure([*models] * copies, session_config(table.conditions)))
            if target is None or not checked.is_open(target):
                break
            log.info("%s: %s", target, checked.line())
    return checked


def _predicted(pruned: Checkpoint, whole: Checkpoint, table: LatencyTable) -> Checked:
    """What the table says, and how to measure it: only its board can, where it is of one."""
    before, after = predicted_ms(table, whole.spec.dropped), predicted_ms(table, pruned.spec.dropped)
    board = table.machine.partition(":")[0]
    home = run_holding(whole.path)
    network, file = (home,) * 2 if home else ("MODEL.safetensors", "MODEL.onnx")
    int8 = [advised("edgeres calibrate", file), advised("edgeres quantize", file)] if table.is_int8 else []
    making = [advised("edgeres export", network), *int8]
    return Checked(
        dropped=tuple(name for name in pruned.spec.dropped if name not in whole.spec.dropped),
        session=table.session,
        machine=table.machine,
        table_whole_ms=before.value,
        predicted_ms=after,
        predicted_ratio=after.value / before.value,
        is_measured=False,
        predicted_whole_ms=before,
        engine=f"as an {table.precision} engine ({table.title})",
        advice=f"{', '.join(making)}, then {advised('edgeres bench', file, on=board)}",
    )


def _measured(predicted: Checked, session: Session) -> Checked:
    before, after = pooled(session.latencies[::2]), pooled(session.latencies[1::2])
    ratio = ratio_interval(before, after)
    return Checked(
        **predicted.model_dump(include={"dropped", "table_whole_ms", "predicted_ms", "predicted_ratio"}),
        session=before.session,
        machine=before.machine,
        whole_ms=percentile_interval(before, 50),
        pruned_ms=percentile_interval(after, 50),
        ratio=ratio,
        error_percent=100 * (ratio.value / predicted.predicted_ratio - 1),
        warnings=tuple(session.warnings[:1]),
    )
