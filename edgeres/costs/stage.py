"""`edgeres bench --per-module`: what every module costs on the runtime that matters, by the clock.

Networks that drop many modules at once are timed in one interleaved session with the whole network, and the saving of
each class of equal modules is found by least squares (`design` says why, and how the networks are chosen).
latency.json holds what `edgeres.core.records.latency.LatencyTable` describes.
"""

from __future__ import annotations

import logging
from pathlib import Path

from edgeres.bench.stage import Session
from edgeres.bench.stage import measure as measure_here
from edgeres.core.artifacts import Checkpoint, LatencyTableFile
from edgeres.core.errors import InputError
from edgeres.core.files import scratch_in
from edgeres.core.records.latency import LatencyConfig, LatencyTable, Timed
from edgeres.core.stage import Recorder, StageResult
from edgeres.core.statistics import round_medians
from edgeres.costs.design import Classes, design, fitted, median_ms, pooled
from edgeres.costs.networks import Measure, as_executed, session_config, shortened
from edgeres.costs.table import classes_to_time, table_from, written

_WHOLES = 3  # processes of the whole network: the luck of one start would shift every ratio
_FEWEST = 10  # shortened networks: leaves enough beyond the unknowns to estimate the error of the sum
_WARNINGS_SHOWN = 3  # the same sentence for a dozen throw-away networks is noise
_QDQ_NOTE = (
    "int8: graphs as --profile ort-cpu writes them, fused by {runtime}: this says nothing of INT8 speed on a GPU"
)

Sets = list[tuple[str, ...]]
log = logging.getLogger(__name__)


def latency_table(
    source: Checkpoint,
    config: LatencyConfig,
    out_dir: Path,
    *,
    measure: Measure = measure_here,
    newest_opset: int | None = None,
) -> StageResult[LatencyTableFile]:
    """Writes out_dir/latency.json; `measure` times model files in the place of this machine, such as a board.

    `newest_opset`: that is read there, where it is known.

    Raises:
        InputError: no module is left to drop, or int8 on torch.
        StageError: a network cannot be loaded.
    """
    recorder = Recorder("latency", config, source)
    config.check(on_board=measure is not measure_here)
    classes = classes_to_time(source)
    if config.networks is not None and config.networks <= (shapes := len(classes)):
        raise InputError(f"--networks {config.networks} cannot tell {shapes} shapes apart; use {shapes + 1} or more")
    networks = config.networks or max(_FEWEST, 2 * len(classes) + 2)  # about two for each unknown
    sets: Sets = [*[()] * _WHOLES, *design(classes, networks=networks, seed=config.seed)]
    log.info("latency: %d networks with modules of %d shapes", len(sets), len(classes))
    with scratch_in(out_dir) as folder:
        models = as_executed(shortened(source, sets, folder), config, folder, newest=newest_opset)
        session = measure(models, session_config(config))
    table = _table(source, config, session, sets=sets, classes=classes)
    recorder.results["busy_cores"] = session.around.busy_cores
    if config.precision == "int8" and not table.is_of_board:
        recorder.notes.append(_QDQ_NOTE.format(runtime=table.runtime))
    different = list(dict.fromkeys(session.warnings))
    recorder.warnings += different[:_WARNINGS_SHOWN]
    if (more := len(different) - _WARNINGS_SHOWN) > 0:
        unsteady = f"{more} more networks were timed unsteadily"
        recorder.warnings.append(unsteady)
    return written(table, recorder, out_dir)


def _table(
    source: Checkpoint, config: LatencyConfig, session: Session, *, sets: Sets, classes: Classes
) -> LatencyTable:
    """The fit to all of the session's latencies."""
    latencies, whole = session.latencies, pooled(session.latencies[:_WHOLES])
    table = table_from(
        source,
        config.model_copy(update={"threads": whole.threads or None}),
        fitted(classes, sets, [median_ms(latency) for latency in latencies]),
        whole=whole,
        classes=classes,
    )
    timed = tuple(
        Timed(dropped=tuple(sorted(names)), rounds_ms=tuple(map(float, round_medians(latency))))
        for names, latency in zip(sets, latencies, strict=True)
    )
    return table.model_copy(update={"timed": timed})
