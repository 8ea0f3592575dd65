"""`edgeres prune --sweep 1..12`: accuracy and latency for every number of modules, from one search.

    sweep.json              a `Sweep`
    sweep.csv, sweep.svg    its table and its picture
    drop-04.safetensors     the network without four modules, trained back if asked for; and so on

The sets are chosen on train and judged on val; latencies come from one interleaved session at the end. What is done
of an interrupted sweep lies beside the checkpoints (rows.json) and is not done again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeres.bench.stage import BenchConfig, Session, measure
from edgeres.core.artifacts import Checkpoint, SweepFile
from edgeres.core.errors import require
from edgeres.core.files import scratch_in, write_text
from edgeres.core.metrics import Latency
from edgeres.core.pictures import COLOURS, MUTED, figure_file
from edgeres.core.progress import Countdown
from edgeres.core.records.latency import LatencyConfig
from edgeres.core.records.sweep import SWEEP_NAME, Sweep, SweepRow, draw_sweep, figure_of, lines_of
from edgeres.core.resuming import Kept
from edgeres.core.safe_text import csv_text
from edgeres.core.stage import Recorder, StageResult
from edgeres.core.statistics import percentile_interval, ratio_interval
from edgeres.costs.networks import as_executed
from edgeres.data import Dataset
from edgeres.data.split import OWN_GUESSES
from edgeres.models.weights import checkpoint_without
from edgeres.prune.choose import Chooser
from edgeres.prune.config import SweepConfig, counts_from
from edgeres.prune.cut import WHOLE_NAME, cut_and_recovered, judged
from edgeres.prune.goals import count_goal
from edgeres.prune.sets import Found

_WARNINGS_SHOWN = 3
_HEIGHT_IN = 3.9
log = logging.getLogger(__name__)


def sweep(source: Checkpoint, config: SweepConfig, out_dir: Path) -> StageResult[SweepFile]:
    """Writes out_dir/sweep.json; raises InputError if the range goes beyond the modules there are."""
    recorder = Recorder("sweep", config, source)
    config.check()
    require("matplotlib", "report")
    chooser, counts = Chooser(source, config, out_dir), counts_from(config.sweep)
    goal = count_goal(counts[-1], chooser.candidates, source.spec)
    levels = {len(level.dropped): level for level in chooser.choose(goal).levels}
    kept: Kept[SweepRow] = Kept(out_dir / "rows.json", source.sha256, SweepRow)
    rows, countdown = [], Countdown(1 + len(counts) - len(kept.records))
    for count in (0, *counts):
        row = kept.records.get(str(count))
        if row is None:
            log.info("sweep: without %d of %d%s", count, counts[-1], countdown.text)
            row = kept.keep(str(count), _row(source, levels.get(count), config, chooser.dataset, out_dir))
            countdown.advance()
        rows.append(row)
    session = _timed([source, *(Checkpoint(out_dir / row.checkpoint) for row in rows[1:])], out_dir)
    result = _with_latencies(source, config, rows, session.latencies)
    recorder.warnings += session.warnings[:_WARNINGS_SHOWN]
    output = SweepFile(out_dir / SWEEP_NAME)
    write_text(out_dir / "sweep.csv", csv_text([_flat(row) for row in result.rows]))
    with figure_file(out_dir / "sweep.svg", height_in=_HEIGHT_IN) as axes:
        draw_sweep(axes, figure_of(result, "sweep"), ink=COLOURS[0], muted=MUTED)
    write_text(output.path, result.model_dump_json(indent=1) + "\n")
    kept.clear()
    chooser.close()
    (out_dir / WHOLE_NAME).unlink(missing_ok=True)
    recorder.results["rows"] = [row.model_dump(mode="json") for row in result.rows]
    beside = (
        "beside it: sweep.svg, sweep.csv and the networks, drop-NN.safetensors; with --out NAME they are called"
        " NAME.sweep.svg, NAME.sweep.csv, NAME.drop-NN.safetensors"
    )
    recorder.notes += [*lines_of(result), *([OWN_GUESSES] if chooser.counts_own_guesses else []), beside]
    return StageResult(output, recorder.finish(output))


def _row(source: Checkpoint, found: Found | None, config: SweepConfig, dataset: Dataset, out_dir: Path) -> SweepRow:
    """Judges the network without what was found, before and after recovery; the whole one if nothing was."""
    checkpoint, path, dropped, recovered = source, source.path, found.dropped if found else (), None
    took_s = None
    if found is not None:
        path = out_dir / f"drop-{len(dropped):02}.safetensors"
        checkpoint = checkpoint_without(source, dropped, path)
    bare = judged(checkpoint, source, dataset, out_dir)
    if found is not None and config.recover:
        cut = cut_and_recovered(source, dropped, config, path)
        checkpoint, took_s = cut.output, cut.results["recovery"]["duration_s"]
        recovered = judged(checkpoint, source, dataset, out_dir)
    return SweepRow(
        count=len(dropped),
        dropped=dropped,
        score=found.score if found else None,
        params=checkpoint.card.cost.params,
        macs=checkpoint.card.cost.macs,
        checkpoint=path.name if found else str(path),
        bare=bare,
        recovered=recovered,
        recovery_s=took_s,
    )


def _timed(checkpoints: Sequence[Checkpoint], out_dir: Path) -> Session:
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


def _flat(row: SweepRow) -> dict[str, Any]:
    """A line of the CSV: plain numbers, their units in the column names."""
    assert row.latency_ms is not None
    assert row.ratio is not None
    name = "closeness" if row.final.accuracy is None else "top1"
    return {
        "count": row.count,
        "dropped": " ".join(row.dropped),
        name: row.final.quality.value,
        "change_points": row.final.change_points,
        "half_width_points": row.final.half_width_points,
        f"{name}_without_recovery": row.bare.quality.value,
        "p50_ms": row.latency_ms.value,
        "latency_ratio": row.ratio.value,
        "params": row.params,
        "macs": row.macs,
        "n": row.final.judged_on.n,
    }
