"""What every module costs on a board: from the profile of one engine, or from shortened networks built and timed there.

From a profile (one build): every layer of the engine is led back to the module it was made from. Profiling separates
the layers, so they add up to more than the network takes; each is scaled by

    measured median of the network / sum of all layers

and `fit_error` is how far that is from 1: a profile alone cannot say how well a sum predicts a shorter network.
A module is charged what would go with it: not the convolution of its shortcut, which stays, and not a copy between
formats at its edge, which its neighbour would need as well. Layers of no module are overhead: `rest_ms`.

From shortened networks (a dozen builds and more): `on_board` puts a board in the place of this machine in
`edgeres.prune.latency.latency_table`.

Never run on hardware so far.
"""

from __future__ import annotations

import json
import logging
import math
import random
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from edgeres.bench.stage import BenchConfig, Session
from edgeres.compile.layers import UNKNOWN, Layer, layers_in
from edgeres.compile.origin import Graph, Origin
from edgeres.core.artifacts import LatencyTableFile, Model, OnnxModel
from edgeres.core.config import Record
from edgeres.core.durations import text_from
from edgeres.core.errors import InputError
from edgeres.core.files import write_text
from edgeres.core.kept import Kept
from edgeres.core.metrics import Z_95, Latency
from edgeres.core.records.latency import LATENCY_NAME, LatencyConfig, LatencyTable
from edgeres.core.stage import Recorder, StageResult
from edgeres.core.statistics import Interval, percentile_interval
from edgeres.graph.blocks import module_of
from edgeres.graph.view import QDQ, WEIGHTED
from edgeres.prune.latency import Measure
from edgeres.prune.latency_design import interval_around, shape_classes
from edgeres.prune.latency_table import lines_of, module_costs, summary_of

_SHORTCUT = ".downsample"
_ROUNDS = 20  # pieces in a row that a board's samples are cut into: neighbours are not independent
_NAMED = 4  # modules of a shortened network that a line of progress names; more are counted
_OTHER_WAY = "time shortened networks instead: edgeres bench --per-module --on BOARD MODEL.safetensors"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProfileTexts:
    """The texts of trtexec's --exportProfile and --exportLayerInfo, of one engine."""

    profile: str
    layers: str


def table_from_profile(source: OnnxModel, latency: Latency, texts: ProfileTexts) -> LatencyTable:
    """The table of the engine built from `source`; `latency` are its samples on the same board.

    Raises InputError if a text is damaged, if the engine is of another graph, or if a layer does the work of several
    modules.
    """
    classes = shape_classes(source.spec)
    if not classes:
        raise InputError(f"{source.path}: {source.spec.variant} has no module left to time")
    times = _times_by_owner(source, texts, [name for names in classes.values() for name in names])
    total, whole = sum(times.values()), percentile_interval(latency, 50)
    if total <= 0:
        raise InputError("the layer profile adds up to no time at all; measure longer")
    own = {name: time * whole.value / total for name, time in times.items() if name}
    spread, degrees = _spread(classes, own)
    errors = {shape: _mean(names, own) * spread / math.sqrt(len(names)) for shape, names in classes.items()}
    variances = [((whole.high - whole.low) / 2 / Z_95) ** 2, *(error**2 for error in errors.values())]
    saved = {shape: interval_around(_mean(names, own), errors[shape], degrees) for shape, names in classes.items()}
    alone = {name: Interval(value=time, low=time, high=time) for name, time in own.items()}
    return LatencyTable(
        model_sha256=source.sha256,
        model_name=source.path.name,
        spec=source.spec,
        conditions=_conditions(source, latency),
        runtime=latency.runtime,
        machine=latency.machine,
        session=latency.session,
        method="profile",
        engine_precision=source.precision,
        whole_ms=whole,
        measured_ms=whole,
        rest_ms=whole.value - sum(own.values()),
        shapes=tuple(classes),
        table=module_costs(source.spec, classes, saved, alone),
        covariance=_diagonal(variances),
        fit_error=abs(total / whole.value - 1),
        degrees=degrees,
    )


def latency_from_profile(
    source: OnnxModel, latency: Latency, texts: ProfileTexts, out_dir: Path
) -> StageResult[LatencyTableFile]:
    """Writes out_dir/latency.json, the table of the profile; raises as `table_from_profile` does."""
    recorder = Recorder("latency", _conditions(source, latency), source)
    table = table_from_profile(source, latency, texts)
    output = LatencyTableFile(out_dir / LATENCY_NAME)
    write_text(output.path, table.model_dump_json(indent=1) + "\n")
    recorder.results |= summary_of(table)
    recorder.notes += lines_of(table)
    return StageResult(output, recorder.finish(output))


class NetworkTime(Record):
    """One network: what it lacks, its latency and what made it doubtful."""

    dropped: tuple[str, ...]
    latency: Latency
    warnings: tuple[str, ...] = ()


def kept_networks(path: Path | None, key: str) -> Kept[NetworkTime]:
    """The networks of one plan, by place and modules lacking; the plan is drawn from the seed, so places stay."""
    return Kept(path, key, NetworkTime)


def on_board(
    measure_one: Callable[[OnnxModel], tuple[Latency, tuple[str, ...]]], kept: Kept[NetworkTime] | None = None
) -> Measure:
    """A board in the place of this machine: `measure_one` builds one graph there and times it; latency and warnings.

    The networks come in an order drawn from the seed, so that a board that warms up slows none of them in particular.
    Those in `kept` are not measured again; each that is measured is kept at once.
    """
    known = kept or kept_networks(None, "")

    def measure(models: Sequence[Model], config: BenchConfig) -> Session:
        order = random.Random(config.seed).sample(range(len(models)), len(models))
        found: dict[int, Latency] = {}
        session, pace = uuid.uuid4().hex[:12], _Pace(len(models), known)
        for index in order:
            model = models[index]
            assert isinstance(model, OnnxModel)
            name = f"{index} {' '.join(model.spec.dropped)}"
            one = known.records.get(name)
            if one is None:
                pace.say(model.spec.dropped)
                latency, warnings = measure_one(model)
                one = NetworkTime(dropped=model.spec.dropped, latency=latency, warnings=warnings)
                known.keep(name, one)
            rounds = _rounds(len(one.latency.samples_ms))
            found[index] = one.latency.model_copy(update={"session": session, "rounds": rounds})
        return Session(tuple(found[index] for index in range(len(models))), None)

    return measure


class _Pace:
    """Says which network is measured and how long the rest will take at the pace so far."""

    def __init__(self, total: int, kept: Kept[NetworkTime]) -> None:
        self.total, self.done, self.kept = total, 0, kept.reused
        self._began_s = time.monotonic()
        if kept.reused:
            log.info("%d of %d networks measured before, reused", kept.reused, total)

    def say(self, dropped: Sequence[str]) -> None:
        """One line, when the next network begins."""
        place = self.kept + self.done + 1
        log.info("network %d of %d: %s%s", place, self.total, _without(dropped), self._left(self.total - place + 1))
        self.done += 1

    def _left(self, networks: int) -> str:
        if not self.done:
            return ""
        seconds = (time.monotonic() - self._began_s) / self.done * networks
        return f"; about {text_from(seconds)} left"


def _without(dropped: Sequence[str]) -> str:
    if not dropped:
        return "the whole network"
    return f"without {', '.join(dropped) if len(dropped) <= _NAMED else f'{len(dropped)} modules'}"


def _rounds(samples: int) -> tuple[int, ...]:
    """Sizes of `_ROUNDS` nearly equal pieces."""
    pieces = min(_ROUNDS, samples)
    return tuple(samples * (i + 1) // pieces - samples * i // pieces for i in range(pieces))


def _conditions(source: OnnxModel, latency: Latency) -> LatencyConfig:
    precision = "int8" if "int8" in source.precision else "fp32"
    return LatencyConfig.model_validate({"batch": latency.batch, "runtime": "tensorrt", "precision": precision})


def _times_by_owner(source: OnnxModel, texts: ProfileTexts, modules: Sequence[str]) -> dict[str, float]:
    """Module -> ms of its layers in the profile; "" for what belongs to none."""
    graph, times = Graph(source.proto), dict.fromkeys(["", *modules], 0.0)
    rows = list(_layers_of(times_in(texts.profile), _described(texts.layers)))
    owners = [_owner(graph, layer, modules) for layer, _ in rows]
    for (layer, time_ms), owner in zip(rows, owners, strict=True):
        times[_around(layer, rows, owners) if layer.is_reformat else owner] += time_ms
    if missing := [name for name in modules if name not in owners]:
        raise InputError(
            f"no layer of the profile was made from {', '.join(missing)} of {source.path}: was the engine built from"
            " this graph?"
        )
    return times


def _described(text: str) -> tuple[Layer, ...]:
    try:
        content = json.loads(text)
    except ValueError as err:
        raise InputError(f"damaged layer information of trtexec: {err}") from err
    return layers_in(content, "the layer information")


def times_in(profile: str) -> list[tuple[str, float]]:
    """(layer, its median in ms, the mean where an old trtexec gives none) in the file of `trtexec --exportProfile`.

        [{"count": N}, {"name", "timeMs", "averageMs", "medianMs", "percentage"}, ...]

    Raises InputError with one line if it is damaged or another file.
    """
    try:
        head, *rows = json.loads(profile)
        int(head["count"])
        return [(str(row["name"]), float(row["medianMs"] if "medianMs" in row else row["averageMs"])) for row in rows]
    except (KeyError, TypeError, ValueError, RecursionError) as err:
        reason = " ".join(str(err).split())
        raise InputError(f"damaged layer profile of trtexec: {type(err).__name__}: {reason}") from err


def _layers_of(times: Sequence[tuple[str, float]], layers: Sequence[Layer]) -> Iterator[tuple[Layer, float]]:
    """Every row of the profile with what is known of its layer, which is its name at least."""
    known: dict[str, list[Layer]] = {}
    for layer in layers:
        known.setdefault(layer.name, []).append(layer)
    for name, time_ms in times:
        same = known.get(name)
        yield same.pop(0) if same else Layer(name=name, kind=UNKNOWN, text=name, inputs=(), outputs=()), time_ms


def _owner(graph: Graph, layer: Layer, modules: Sequence[str]) -> str:
    """The module that would take the layer with it; "" if none would."""
    origin = graph.origin(layer)
    computing = [node for node in origin.nodes if not graph.operators((node,)) & QDQ] or list(origin.nodes)
    heavy = [node for node in computing if graph.operators((node,)) & WEIGHTED]
    names = [module_of(node) or "" for node in heavy or computing]
    found = {name if name in modules else "" for name in names}
    if layer.is_reformat or not found - {""}:
        return ""
    if heavy and (len(found) > 1 or _is_mixed(graph, origin)):
        raise InputError(
            f"the layer {layer.name} does the work of {' and '.join(sorted(found - {''}))} and more in one: what each"
            f" takes cannot be told; {_OTHER_WAY}"
        )
    return "" if any(_SHORTCUT in node for node in computing) else max(found)


def _is_mixed(graph: Graph, origin: Origin) -> bool:
    """Whether convolutions of the branch and of the shortcut are in one layer."""
    convolutions = [node for node in origin.nodes if "Conv" in graph.operators((node,))]
    return len({_SHORTCUT in node for node in convolutions}) > 1


def _around(copy: Layer, rows: Sequence[tuple[Layer, float]], owners: Sequence[str]) -> str:
    """The module that both writes and reads what is copied; "" at a module's edge."""
    read, written = {port.name for port in copy.inputs}, {port.name for port in copy.outputs}
    before = {owner for (layer, _), owner in zip(rows, owners, strict=True) if read & {p.name for p in layer.outputs}}
    after = {owner for (layer, _), owner in zip(rows, owners, strict=True) if written & {p.name for p in layer.inputs}}
    return next(iter(before)) if len(before) == 1 and before == after else ""


def _spread(classes: Mapping[str, Sequence[str]], own: Mapping[str, float]) -> tuple[float, int]:
    """Relative standard deviation of modules around their class's mean, and its degrees of freedom (at least 1)."""
    squares, degrees = 0.0, 0
    for names in classes.values():
        mean = _mean(names, own)
        squares += sum((own[name] / mean - 1) ** 2 for name in names) if mean else 0.0
        degrees += len(names) - 1
    return math.sqrt(squares / max(degrees, 1)), max(degrees, 1)


def _mean(names: Sequence[str], own: Mapping[str, float]) -> float:
    return fmean(own[name] for name in names)


def _diagonal(values: Sequence[float]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(value if i == j else 0.0 for j in range(len(values))) for i, value in enumerate(values))
