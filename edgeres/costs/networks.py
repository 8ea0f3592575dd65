"""Networks to be timed and thrown away: without some of their modules, as files that a runtime executes.

They are timed here in one interleaved session, or built and timed on a board one by one (`on_board`; never run on
hardware so far).
"""

from __future__ import annotations

import logging
import random
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from edgeres.bench.stage import BenchConfig, Session
from edgeres.core.artifacts import FUSED_PROFILE, Checkpoint, Model, OnnxModel
from edgeres.core.config import Record
from edgeres.core.environment import default_threads
from edgeres.core.files import write_bytes
from edgeres.core.metrics import Latency
from edgeres.core.progress import Countdown, quiet, track
from edgeres.core.records.latency import LatencyConfig, SessionConfig
from edgeres.core.resuming import Kept
from edgeres.core.spec import ModelSpec

Measure = Callable[[Sequence[Model], BenchConfig], Session]
_ANY_AMAX = 1.0  # a clipping bound changes the numbers, not the time they take
_ROUNDS = 20  # pieces in a row that a board's samples are cut into: neighbours are not independent
_NAMED = 4  # modules of a shortened network that a line of progress names; more are counted
log = logging.getLogger(__name__)


def session_config(how: LatencyConfig) -> BenchConfig:
    """The options of one session of `how`, the number of threads settled."""
    own = how.model_dump(include=set(SessionConfig.model_fields))
    return BenchConfig.model_validate({**own, "threads": how.threads or default_threads(), "include_qdq": True})


def shortened(source: Checkpoint, dropped: Sequence[Sequence[str]], folder: Path) -> list[Checkpoint]:
    """One checkpoint below `folder` for each of `dropped`, without these modules; the same names give the same file."""
    from edgeres.models.weights import checkpoint_without

    made: dict[frozenset[str], Checkpoint] = {}
    for names in map(frozenset, dropped):
        if names not in made:
            path = folder / f"{len(made):02}-without-{len(names)}" / "model.safetensors"
            made[names] = checkpoint_without(source, tuple(names), path)
    return [made[frozenset(names)] for names in dropped]


def as_executed(
    checkpoints: Sequence[Checkpoint], how: LatencyConfig, folder: Path, *, newest: int | None = None
) -> list[Model]:
    """The checkpoints as the runtime of `how` executes them: exported below `folder`, quantized where asked for.

    They have the opset that `edgeres export` writes; an older one where the runtime reads no newer than `newest`.
    """
    if how.runtime == "torch":
        return list(checkpoints)
    made: dict[Path, Model] = {}
    with quiet("edgeres.export"):
        for checkpoint in track(checkpoints, "export", len(checkpoints)):
            if checkpoint.path not in made:
                place = folder / f"onnx-{len(made):02}-without-{len(checkpoint.spec.dropped)}"
                made[checkpoint.path] = _exported(checkpoint, place, how, newest)
    return [made[checkpoint.path] for checkpoint in checkpoints]


def _exported(checkpoint: Checkpoint, folder: Path, how: LatencyConfig, newest: int | None) -> OnnxModel:
    from edgeres.export.stage import ExportConfig, export

    options = {"batch": how.batch, "opset": _opset_for(checkpoint.spec, ExportConfig().opset, newest)}
    model = export(checkpoint, ExportConfig.model_validate(options), folder).output
    if how.precision != "int8":
        return model
    from edgeres.quantize.decision import Decision
    from edgeres.quantize.placement import ALL_INT8
    from edgeres.quantize.profiles import placement_for, quantized

    profile = "tensorrt" if how.runtime == "tensorrt" else FUSED_PROFILE
    observed = placement_for(model.proto, profile, ALL_INT8).observed
    bounds = Decision(dict.fromkeys(observed, _ANY_AMAX), extremes=dict.fromkeys(observed, (-_ANY_AMAX, _ANY_AMAX)))
    path = model.path.with_name("model.int8.onnx")
    write_bytes(path, quantized(model.proto, profile, bounds, ALL_INT8).SerializeToString(deterministic=True))
    return OnnxModel(path)


def _opset_for(spec: ModelSpec, usual: int, newest: int | None) -> int:
    """The `usual` opset, or `newest` if that is older; a newer one where a network's own graph needs it."""
    asked = min(usual, newest or usual)
    if spec.structure is None:
        return asked
    from edgeres.graph.opset import oldest_opset
    from edgeres.models.graph_family import graph_without

    oldest = oldest_opset(graph_without(spec), asked)
    return oldest if newest is None or oldest <= newest else asked  # export says what is in the way


class NetworkTime(Record):
    """One network: what it lacks, its latency and what made it doubtful."""

    dropped: tuple[str, ...]
    latency: Latency
    warnings: tuple[str, ...] = ()


def on_board(
    measure_one: Callable[[OnnxModel], tuple[Latency, tuple[str, ...]]], kept: Kept[NetworkTime] | None = None
) -> Measure:
    """A board in the place of this machine: `measure_one` builds one graph there and times it; latency and warnings.

    The networks come in an order drawn from the seed, so that a board that warms up slows none of them in particular.
    Those in `kept`, by place and modules lacking, are not measured again; each that is measured is kept at once.
    """
    known = kept or Kept[NetworkTime](None, "", NetworkTime)

    def measure(models: Sequence[Model], config: BenchConfig) -> Session:
        order = random.Random(config.seed).sample(range(len(models)), len(models))
        names = [f"{place} {' '.join(model.spec.dropped)}" for place, model in enumerate(models)]
        missing = [place for place in order if names[place] not in known.records]
        if known.reused:
            log.info("%d of %d networks measured before, reused", known.reused, len(models))
        countdown = Countdown(len(missing))
        for number, place in enumerate(missing, len(models) - len(missing) + 1):
            model = models[place]
            assert isinstance(model, OnnxModel)
            dropped = model.spec.dropped
            lacks = ", ".join(dropped) if len(dropped) <= _NAMED else f"{len(dropped)} of its modules"
            what = f"without {lacks}" if dropped else "the whole network"
            log.info("network %d of %d: %s%s", number, len(models), what, countdown.text)
            latency, warnings = measure_one(model)
            known.keep(names[place], NetworkTime(dropped=model.spec.dropped, latency=latency, warnings=warnings))
            countdown.advance()
        session = uuid.uuid4().hex[:12]
        return Session(tuple(_in_session(known.records[name].latency, session) for name in names))

    return measure


def _in_session(latency: Latency, session: str) -> Latency:
    """As part of `session`, its samples cut into nearly equal rounds."""
    samples = len(latency.samples_ms)
    pieces = min(_ROUNDS, samples)
    rounds = tuple(samples * (i + 1) // pieces - samples * i // pieces for i in range(pieces))
    return latency.model_copy(update={"session": session, "rounds": rounds})
