"""`edgeres prune --sweep 1..12`: accuracy and latency for every number of modules, from one search.

    sweep.json              a `Sweep`
    sweep.csv, sweep.svg    its table and its picture
    drop-04.safetensors     the network without four modules, trained back if asked for; and so on

The sets are chosen on train and judged on val; latencies come from one interleaved session at the end. What is done
of an interrupted sweep lies beside the checkpoints (rows.json) and is not done again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeres.core.artifacts import Checkpoint, SweepFile
from edgeres.core.errors import require
from edgeres.core.figures import COLOURS, MUTED, figure_file
from edgeres.core.files import scratch_in, write_text
from edgeres.core.kept import Kept
from edgeres.core.metrics import Latency, paired_difference
from edgeres.core.plain import csv_text
from edgeres.core.records.latency import LatencyConfig
from edgeres.core.records.sweep import SWEEP_NAME, Judged, Sweep, SweepRow, figure_of
from edgeres.core.records.sweep_picture import draw_sweep
from edgeres.core.stage import Recorder, StageResult
from edgeres.core.statistics import percentile_interval, ratio_interval
from edgeres.prune.choice import JOURNAL_NAME, chosen_levels
from edgeres.prune.config import SweepConfig, counts_from
from edgeres.prune.cutting import cut_and_recovered

if TYPE_CHECKING:
    from edgeres.bench.stage import Session
    from edgeres.data import Dataset
    from edgeres.prune.plan import Found

_WARNINGS_SHOWN = 3
_HEIGHT_IN = 3.9
log = logging.getLogger(__name__)


def sweep(source: Checkpoint, config: SweepConfig, out_dir: Path) -> StageResult[SweepFile]:
    """Writes out_dir/sweep.json; raises InputError if the range goes beyond the modules there are."""
    from edgeres.data import dataset_for

    recorder = Recorder("sweep", config, source)
    config.check()
    require("matplotlib", "report")
    counts = counts_from(config.sweep)
    dataset = dataset_for(source.spec, config.data or "", download=config.download)
    levels = chosen_levels(source, config, counts[-1], out_dir)
    kept: Kept[SweepRow] = Kept(out_dir / "rows.json", source.sha256, SweepRow)
    makers: dict[int, Callable[[], SweepRow]] = {0: partial(_whole_row, source, dataset, out_dir)}
    makers |= {count: partial(_row, source, levels[count], config, dataset, out_dir) for count in counts}
    rows = [kept.records.get(str(count)) or kept.keep(str(count), make()) for count, make in makers.items()]
    session = _timed([source, *(Checkpoint(out_dir / row.checkpoint) for row in rows[1:])], out_dir)
    result = _with_latencies(source, config, rows, session.latencies)
    recorder.warnings += session.warnings[:_WARNINGS_SHOWN]
    output = SweepFile(out_dir / SWEEP_NAME)
    write_text(out_dir / "sweep.csv", _csv_of(result))
    with figure_file(out_dir / "sweep.svg", height_in=_HEIGHT_IN) as axes:
        draw_sweep(axes, figure_of(result, "sweep"), ink=COLOURS[0], muted=MUTED)
    write_text(output.path, result.model_dump_json(indent=1) + "\n")
    kept.clear()
    for left in (out_dir / "whole.npy", out_dir / JOURNAL_NAME):
        left.unlink()
    recorder.results["rows"] = [row.model_dump(mode="json") for row in result.rows]
    beside = (
        "beside it: sweep.svg, sweep.csv and the networks, drop-NN.safetensors; with --out NAME they are called"
        " NAME.sweep.svg, NAME.sweep.csv, NAME.drop-NN.safetensors"
    )
    recorder.notes += [*_lines_of(result), beside]
    return StageResult(output, recorder.finish(output))


def _whole_row(source: Checkpoint, dataset: Dataset, out_dir: Path) -> SweepRow:
    return SweepRow(
        count=0,
        dropped=(),
        score=None,
        params=source.card.cost.params,
        macs=source.card.cost.macs,
        checkpoint=str(source.path),
        bare=_judged(source, dataset, out_dir),
    )


def _row(source: Checkpoint, found: Found, config: SweepConfig, dataset: Dataset, out_dir: Path) -> SweepRow:
    from edgeres.models.weights import checkpoint_without

    log.info("sweep: without %s", ", ".join(found.dropped))
    path = out_dir / f"drop-{len(found.dropped):02}.safetensors"
    checkpoint = checkpoint_without(source, found.dropped, path)
    bare = _judged(checkpoint, dataset, out_dir)
    recovered = None
    if config.recover:
        checkpoint = cut_and_recovered(source, found.dropped, config, path).output
        recovered = _judged(checkpoint, dataset, out_dir)
    return SweepRow(
        count=len(found.dropped),
        dropped=found.dropped,
        score=found.score,
        params=checkpoint.card.cost.params,
        macs=checkpoint.card.cost.macs,
        checkpoint=path.name,
        bare=bare,
        recovered=recovered,
    )


def _judged(checkpoint: Checkpoint, dataset: Dataset, out_dir: Path) -> Judged:
    """Accuracy on val; predictions of the whole network, the first one judged, stay for the pairing."""
    import numpy as np

    from edgeres.evaluate.accuracy import accuracy_of

    whole, mine = out_dir / "whole.npy", out_dir / "last.npy"
    target = mine if whole.is_file() else whole
    accuracy = accuracy_of(checkpoint, dataset, out=target)
    right = [pairs[:, 0] == pairs[:, 1] for pairs in (np.load(whole), np.load(target))]
    mine.unlink(missing_ok=True)
    change, half = paired_difference(*right)
    return Judged(
        accuracy=accuracy.model_copy(update={"predictions": None}),
        change_points=100 * change,
        half_width_points=100 * half,
    )


def _timed(checkpoints: Sequence[Checkpoint], out_dir: Path) -> Session:
    from edgeres.bench.stage import BenchConfig, measure
    from edgeres.costs.networks import as_executed

    with scratch_in(out_dir) as folder:
        return measure(as_executed(checkpoints, LatencyConfig(), folder), BenchConfig())


def _with_latencies(
    source: Checkpoint, config: SweepConfig, rows: Sequence[SweepRow], latencies: Sequence[Latency]
) -> Sweep:
    whole = latencies[0]
    timed = tuple(
        row.model_copy(update={"latency_ms": percentile_interval(latency, 50), "ratio": ratio_interval(whole, latency)})
        for row, latency in zip(rows, latencies, strict=True)
    )
    return Sweep(
        model_sha256=source.sha256,
        recover=config.recover,
        runtime=whole.runtime,
        machine=whole.machine,
        batch=whole.batch,
        threads=whole.threads,
        rows=timed,
    )


def _lines_of(result: Sweep) -> list[str]:
    """The table for the terminal, a line a row."""
    lines = ["drop   top-1 %   change, points    latency p50    of whole   modules of this size"]
    for row in result.rows:
        final, latency, ratio = row.final, row.latency_ms, row.ratio
        change = f"{final.change_points:+6.2f} ± {final.half_width_points:.2f}" if row.count else ""
        time = f"{latency.value:8.3f} ms" if latency else "not timed"
        share = f"{ratio.value:.3f}" if ratio else ""
        names = ", ".join(row.dropped)
        lines.append(
            f"{row.count:4}   {100 * final.accuracy.top1:7.2f}   {change:15} {time:>13}   {share:>8}   {names}"
        )
    how = f"recovered by {', '.join(result.recover)}" if result.recover else "without recovery"
    n = result.rows[0].bare.accuracy.n
    lines.append(f"{how}; n = {n:,} of val; {result.runtime}, batch {result.batch}, {result.threads} threads")
    return lines


def _csv_of(result: Sweep) -> str:
    """A line a row, plain numbers with their units in the column names."""
    return csv_text([_flat(row) for row in result.rows])


def _flat(row: SweepRow) -> dict[str, Any]:
    assert row.latency_ms is not None
    assert row.ratio is not None
    return {
        "count": row.count,
        "dropped": " ".join(row.dropped),
        "top1": row.final.accuracy.top1,
        "change_points": row.final.change_points,
        "half_width_points": row.final.half_width_points,
        "top1_without_recovery": row.bare.accuracy.top1,
        "p50_ms": row.latency_ms.value,
        "latency_ratio": row.ratio.value,
        "params": row.params,
        "macs": row.macs,
        "n": row.final.accuracy.n,
    }
