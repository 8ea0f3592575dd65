"""`edgeres bench --per-module`: what every module costs on the runtime that matters, by the clock.

Networks that drop many modules at once are timed in one interleaved session with the whole network, and the saving of
each class of equal modules is found by least squares (`latency_design` says why, and how the networks are chosen).
latency.json holds what `edgeres.core.records.latency.LatencyTable` describes.
"""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from edgeres.bench.stage import BenchConfig, Session
from edgeres.bench.stage import measure as measure_here
from edgeres.core.artifacts import Checkpoint, LatencyTableFile, Model
from edgeres.core.environment import default_threads
from edgeres.core.errors import InputError
from edgeres.core.files import SCRATCH, write_text
from edgeres.core.metrics import Latency
from edgeres.core.records.latency import LATENCY_NAME, LatencyConfig, LatencyTable, ModuleCost, Timed
from edgeres.core.spec import ModelSpec
from edgeres.core.stage import Recorder, StageResult
from edgeres.core.statistics import percentile_interval, round_medians
from edgeres.prune.latency_design import (
    Fit,
    design,
    fitted,
    interval_around,
    median_ms,
    pooled,
    saved_by_round,
    shape_classes,
)
from edgeres.prune.latency_table import lines_of, module_costs, summary_of

_WHOLES = 3  # processes of the whole network: the luck of one start would shift every ratio
_FEWEST = 10  # shortened networks: leaves enough beyond the unknowns to estimate the error of the sum
_WARNINGS_SHOWN = 3  # the same sentence for a dozen throw-away networks is noise
_QDQ_NOTE = (
    "int8: Q/DQ graphs placed for TensorRT, here on {runtime}: this says nothing of INT8 speed on a GPU;"
    " clipping bounds are placeholders, which changes no time"
)

Measure = Callable[[Sequence[Model], BenchConfig], Session]
log = logging.getLogger(__name__)


def latency_table(
    source: Checkpoint, config: LatencyConfig, out_dir: Path, *, measure: Measure | None = None
) -> StageResult[LatencyTableFile]:
    """Writes out_dir/latency.json; `measure` times model files in the place of this machine, such as a board.

    Raises:
        InputError: no module is left to drop, or int8 on torch.
        StageError: a network cannot be loaded.
    """
    recorder = Recorder("latency", config, source)
    config.check(on_board=measure is not None)
    classes = shape_classes(source.spec)
    if not classes:
        raise InputError(f"{source.path}: {source.spec.variant} has no module left to time")
    singles = [(name,) for names in classes.values() for name in names] if config.every_module else []
    sets = [*[()] * _WHOLES, *design(classes, networks=_networks(len(classes), config), seed=config.seed), *singles]
    log.info("latency: %d networks with modules of %d shapes", len(sets), len(classes))
    session = _measured(source, sets, config, out_dir=out_dir, measure=measure or measure_here)
    fit = fitted(classes, sets, [median_ms(latency) for latency in session.latencies])
    costs = _costs(source.spec, classes, fit, latencies=session.latencies, singles=len(singles))
    table = _table(source, config, session, fit=fit, costs=costs)
    timed = tuple(
        Timed(dropped=tuple(sorted(names)), rounds_ms=tuple(map(float, round_medians(latency))))
        for names, latency in zip(sets, session.latencies, strict=True)
    )
    table = table.model_copy(update={"timed": timed})
    output = LatencyTableFile(out_dir / LATENCY_NAME)
    write_text(output.path, table.model_dump_json(indent=1) + "\n")
    _record(recorder, table, session)
    return StageResult(output, recorder.finish(output))


def session_config(config: LatencyConfig) -> BenchConfig:
    """The options of one session of `config`, the number of threads settled."""
    return BenchConfig(
        batch=config.batch,
        threads=config.threads or default_threads(),
        rounds=config.rounds,
        seconds=config.seconds,
        include_qdq=True,
        seed=config.seed,
    )


def _networks(classes: int, config: LatencyConfig) -> int:
    """Shortened networks to time: about two for each unknown, or as many as asked for."""
    if config.networks is not None and config.networks <= classes:
        raise InputError(f"--networks {config.networks} cannot tell {classes} shapes apart; use {classes + 1} or more")
    return config.networks or max(_FEWEST, 2 * classes + 2)


def _measured(
    source: Checkpoint, sets: Sequence[tuple[str, ...]], config: LatencyConfig, *, out_dir: Path, measure: Measure
) -> Session:
    from edgeres.prune.shortened import as_run, shortened

    out_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=out_dir) as name:
        folder = Path(name)
        models = as_run(
            shortened(source, sets, folder),
            folder,
            runtime=config.runtime,
            precision=config.precision,
            batch=config.batch,
        )
        return measure(models, session_config(config))


def _costs(
    spec: ModelSpec, classes: dict[str, tuple[str, ...]], fit: Fit, *, latencies: Sequence[Latency], singles: int
) -> tuple[ModuleCost, ...]:
    """What each class saves by the fit; the last `singles` of the latencies are without one module each."""
    saved = {
        shape: interval_around(float(fit.coefficients[i]), math.sqrt(fit.covariance[i, i]), fit.degrees)
        for i, shape in enumerate(classes, start=1)
    }
    names = [name for members in classes.values() for name in members][:singles]
    own = [saved_by_round(latencies[:_WHOLES], latency) for latency in latencies[len(latencies) - singles :]]
    return module_costs(spec, classes, saved, dict(zip(names, own, strict=True)))


def _table(
    source: Checkpoint, config: LatencyConfig, session: Session, *, fit: Fit, costs: tuple[ModuleCost, ...]
) -> LatencyTable:
    whole = pooled(session.latencies[:_WHOLES])
    fitted_whole = float(fit.coefficients[0])
    return LatencyTable(
        model_sha256=source.sha256,
        model_name=source.path.name,
        spec=source.spec,
        conditions=config.model_copy(update={"threads": whole.threads or None}),
        runtime=whole.runtime,
        machine=whole.machine,
        session=whole.session,
        whole_ms=interval_around(fitted_whole, math.sqrt(fit.covariance[0, 0]), fit.degrees),
        measured_ms=percentile_interval(whole, 50),
        rest_ms=fitted_whole - sum(cost.saved_ms.value for cost in costs),
        shapes=tuple(dict.fromkeys(cost.shape for cost in costs)),
        table=costs,
        covariance=tuple(tuple(map(float, row)) for row in fit.covariance),
        fit_error=fit.error,
        degrees=fit.degrees,
    )


def _record(recorder: Recorder, table: LatencyTable, session: Session) -> None:
    recorder.results |= summary_of(table)
    recorder.results["busy_cores"] = session.busy_cores
    recorder.notes += lines_of(table)
    if table.conditions.precision == "int8" and not table.is_of_board:
        recorder.notes.append(_QDQ_NOTE.format(runtime=table.runtime))
    warnings = list(dict.fromkeys(session.warnings))
    recorder.warnings += warnings[:_WARNINGS_SHOWN]
    if (more := len(warnings) - _WARNINGS_SHOWN) > 0:
        recorder.warnings.append(f"{more} more networks were timed unsteadily; stop other programs and measure again")
