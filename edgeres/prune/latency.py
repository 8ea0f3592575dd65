"""`edgeres bench --per-module`: what every module costs on the runtime that matters, by the clock.

Networks that drop many modules at once are timed in one interleaved session with the whole network, and the saving of
each class of equal modules is found by least squares (`latency_design` says why, and how the networks are chosen).
latency.json holds what `latency_table` describes.
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
from edgeres.core.errors import InputError
from edgeres.core.files import write_text
from edgeres.core.metrics import Latency
from edgeres.core.spec import ModelSpec
from edgeres.core.stage import Recorder, StageResult
from edgeres.core.statistics import Interval, percentile_interval
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
from edgeres.prune.latency_table import LatencyConfig, LatencyTable, ModuleCost, Timed, lines_of, summary_of

FILE_NAME = "latency.json"
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
    costs = _costs(source.spec, classes, fit, alone=_alone(session.latencies, len(singles)))
    table = _table(source, config, session, fit=fit, costs=costs)
    timed = tuple(Timed.of(names, latency) for names, latency in zip(sets, session.latencies, strict=True))
    table = table.model_copy(update={"timed": timed})
    output = LatencyTableFile(out_dir / FILE_NAME)
    write_text(output.path, table.model_dump_json(indent=1) + "\n")
    _record(recorder, table, session)
    return StageResult(output, recorder.finish(output))


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
    with tempfile.TemporaryDirectory(prefix=".networks-", dir=out_dir) as name:
        folder = Path(name)
        models = as_run(
            shortened(source, sets, folder),
            folder,
            runtime=config.runtime,
            precision=config.precision,
            batch=config.batch,
        )
        return measure(models, config.as_bench())


def _alone(latencies: Sequence[Latency], count: int) -> list[Interval | None]:
    singles = latencies[len(latencies) - count :]
    return [saved_by_round(latencies[:_WHOLES], latency) for latency in singles]


def _costs(
    spec: ModelSpec, classes: dict[str, tuple[str, ...]], fit: Fit, *, alone: list[Interval | None]
) -> tuple[ModuleCost, ...]:
    """One row per module in order of execution."""
    from edgeres.models import modules_of

    names = [name for members in classes.values() for name in members]
    own = dict(zip(names, alone or [None] * len(names), strict=True))
    saved = {
        shape: interval_around(float(fit.coefficients[i]), math.sqrt(fit.covariance[i, i]), fit.degrees)
        for i, shape in enumerate(classes, start=1)
    }
    shape_of = {name: shape for shape, members in classes.items() for name in members}
    return tuple(
        ModuleCost(
            module=info.name,
            kind=info.kind,
            shape=shape_of[info.name],
            saved_ms=saved[shape_of[info.name]],
            alone_ms=own[info.name],
        )
        for info in modules_of(spec)
        if info.name in shape_of
    )


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
