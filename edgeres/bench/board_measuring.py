"""Models on a board: engines built, timed, weighed and judged there, and whether all that can be trusted.

    results = {"board": {"name", "host", "model", "jetpack", "l4t", "tensorrt", "cuda", "power_mode", "gpu",
                         "clocks_locked", ...},
               "figures": {"p50_ms", "p99_ms", "images_per_s", "heat", "is_valid", "problems", "layers", "agreement",
                           "engine_sha256", "engine_bytes", "build_s", "command", ...}}

`is_valid` is None where nothing was timed, or the GPU's clock was not seen under load: then nothing speaks against the
run, and not enough for it. `p99_ms` is None below the calls that a 99th percentile takes.

All engines of one call are built first. Then each is weighed and profiled, where its energy is to be shown, and all are
timed in rounds, A B A B, of a share of the duration each: what slows a minute of the board falls on all alike, and one
session holds the calls of all.
One model alone, or a duration too short for rounds, is timed in one run, a session of its own.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from edgeres.bench.agent.measure import hangs_after_s
from edgeres.bench.board_accuracy import Images, agreement_with, closeness_from, guessed_from, in_order, logits_of
from edgeres.bench.board_answers import BuildDone, EvalDone, JobDone, MeasureDone
from edgeres.bench.board_facts import (
    check_opset,
    check_power_mode,
    facts_of,
    host_of,
    machine_of,
    release_of,
    without_int8,
)
from edgeres.bench.board_figures import joined, note, shares_of
from edgeres.bench.board_link import Lost
from edgeres.bench.board_session import Session
from edgeres.bench.config import BoardConfig
from edgeres.bench.tasks import label_of
from edgeres.core.artifacts import Engine, Model, OnnxModel
from edgeres.core.errors import DeviceError, EdgeresError, InputError, chain_of, require
from edgeres.core.lineage import advised, check_for_tensorrt, source_of
from edgeres.core.onnx_file import image_input, is_channels_last
from edgeres.core.progress import bar
from edgeres.core.safe_text import typed
from edgeres.core.stage import Recorder, StageReport
from edgeres.core.statistics import MIN_ROUNDS
from edgeres.evaluate.stage import doubts_of
from edgeres.graph.view import QDQ, GraphView, Q, attribute
from edgeres.runtime.manifest import check_runnable, manifest_of

A = TypeVar("A")
B = TypeVar("B")

log = logging.getLogger(__name__)
_KERNEL_BYTES, _ENGINE_SHARE = 32 << 20, 4  # a plan holds kernels; weights of one byte may become float32 in it
_UNWEIGHED = ("--no-energy",)
NO_ACCURACY = "no accuracy: "  # begins the warning of a model that was timed and could not be judged
NO_ROUNDS = (
    "no rounds: --duration-s {} is too short for "
    f"{MIN_ROUNDS} of a second each, so every model is timed by itself and none is held against another; with"
    f" --duration-s {MIN_ROUNDS} or more they take turns"
)
_ONNX, PLAN = "model.onnx", "model.plan"


class Built(NamedTuple):
    """An engine on the board: options that time it at `batch`; how it was built, None for one that was brought."""

    remote: str
    batch: int
    sha256: str
    shapes: tuple[str, ...] = ()
    done: BuildDone | None = None


@dataclass(frozen=True)
class Loaded:
    """A model whose engine is on the board, what is noted of it, and what the agent measured, each with its session."""

    model: Model
    built: Built
    recorder: Recorder
    weighed: MeasureDone | None = None
    turns: list[MeasureDone] = field(default_factory=list)
    answer: MeasureDone | None = None
    session: str = ""


@dataclass
class Bench:
    """A board at work on models, which share `images`: with `accuracy_only` nothing is timed.

    Energy is measured where it `weighs`: that takes as long again. `failures`: what kept some of several models from
    being measured.
    """

    session: Session
    config: BoardConfig
    images: Images | None = None
    accuracy_only: bool = False
    weighs: bool = False
    failures: list[EdgeresError] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Raises InputError for a power mode that the board does not have, DeviceError if another run uses it."""
        if self.config.power_mode is not None:
            check_power_mode(self.session, self.config.power_mode)
        self._restored, self._is_alone = self.session.claim(), True

    def run(self, model: Model, out: Path | None = None) -> StageReport:
        """Builds, times and judges one model; predictions are written into the folder `out`.

        Raises:
            InputError: the file is nothing a board can take, or the data set does not suit it.
            DeviceError: the board cannot do it, in its own words; its files are gone by then.
        """
        (one,) = self.measured([model])
        return self.finished(one, out)

    def measured(self, models: Sequence[Model]) -> list[Loaded]:
        """The models with what the board measured of their engines, which it still holds; raises as `run`.

        One of several that fails is left out and adds to `failures`.
        """
        self._is_alone = len(models) == 1
        loaded = self.each(self._loaded, list(enumerate(models)))
        if self.accuracy_only:
            return loaded
        shares, several = shares_of(self.config.duration_s), len(loaded) > 1
        if several and not shares:
            for one in loaded:
                one.recorder.notes.append(NO_ROUNDS.format(self.config.duration_s))
            log.info("%s: %s", self.session.board.name, NO_ROUNDS.format(self.config.duration_s))
        return self._in_rounds(loaded, shares) if several and shares else self.each(self._timed, loaded)

    def each(self, act: Callable[[A], B], subjects: Sequence[A]) -> list[B]:
        """`act` on each; as long as the board answers, one of several that fails does not keep the others."""
        done = [self._tried(act, one, are_more=place + 1 < len(subjects)) for place, one in enumerate(subjects)]
        return [one for one in done if one is not None]

    def _tried(self, act: Callable[[A], B], one: A, *, are_more: bool) -> B | None:
        try:
            return act(one)
        except EdgeresError as err:
            if self._is_alone or self._is_lost(err):
                raise
            log.warning("%s%s", err, "; the others go on" if are_more else "")
            self.failures.append(err)
            return None

    def _is_lost(self, err: EdgeresError) -> bool:
        return any(isinstance(cause, Lost) for cause in chain_of(err)) or not self.session.link.is_up

    def finished(self, one: Loaded, out: Path | None = None) -> StageReport:
        """The report of a measured model, which is judged now; predictions are written into the folder `out`.

        Of one that was timed and cannot be judged it says so, which adds to `failures`.
        """
        if one.answer is not None:
            rounds = tuple(len(turn.samples_ms) for turn in one.turns)
            machine = machine_of(facts_of(self.session, one.answer))
            one.recorder.notes += one.answer.restored
            note(one.recorder, one.answer, self.config, machine=machine, session=one.session, rounds=rounds)
            one.recorder.results["figures"]["command"] = without_folder(one.answer.command, self.session)
        judged = None
        try:
            judged = None if self.images is None else self._judged(one, out)
        except EdgeresError as err:
            if one.answer is None or self._is_lost(err):
                raise
            self.failures.append(err)
            one.recorder.warnings.append(f"{NO_ACCURACY}{err}")
        done = one.answer or one.built.done or judged or JobDone(restored=())
        one.recorder.results["board"] = facts_of(self.session, done)
        self.session.remove(Path(one.built.remote).name, "logits.bin")
        whose = {"precision": one.model.precision, "dropped": one.model.spec.dropped}
        report = one.recorder.finish(None).model_copy(update=whose)
        log.info("%s: %s done", self.session.board.name, label_of(one.model.path))
        report.results["figures"].setdefault("layers", None)
        return report

    def _loaded(self, numbered: tuple[int, Model]) -> Loaded:
        number, model = numbered
        recorder, plan = Recorder("eval" if self.accuracy_only else "board", self.config, model), f"{number}-{PLAN}"
        if isinstance(model, Engine):
            built = brought(self.session, model, recorder, plan)
        else:
            assert isinstance(model, OnnxModel)
            batch, limit_s = model.batch or self.config.batch, self.config.timeout_s
            built = built_on(self.session, model, (batch, batch, batch), (), timeout_s=limit_s, plan=plan)
        recorder.results["figures"] = _of_build(built, self.session)
        recorder.notes += [*self._restored, *(built.done.restored if built.done else ())]
        self._restored = []
        recorder.warnings += without_int8(self.session, model)
        return Loaded(model, built, recorder)

    def _timed(self, one: Loaded) -> Loaded:
        more = () if self.weighs else _UNWEIGHED
        return replace(one, answer=self._asked(one, self.config.duration_s, *more), session=uuid.uuid4().hex)

    def _in_rounds(self, loaded: list[Loaded], shares: Sequence[int]) -> list[Loaded]:
        """Each weighed if at all, then all timed one after the other, in a round for each share of the duration."""
        name, session = self.session.board.name, uuid.uuid4().hex
        first = f"energy of {len(loaded)} models, then their latency" if self.weighs else f"{len(loaded)} models"
        log.info("%s: %s in %d rounds", name, first, len(shares))
        loaded = self.each(self._weighed, loaded) if self.weighs else loaded
        with bar(f"{name}: rounds") as shown:
            shown.expect(len(shares))
            for share in shares:
                loaded = self.each(partial(self._turn, share), loaded)
                shown.advance(1)
        return [replace(one, answer=joined(one.weighed, one.turns), session=session) for one in loaded]

    def _weighed(self, one: Loaded) -> Loaded:
        return replace(one, weighed=self._asked(one, self.config.duration_s, "--no-latency"))

    def _turn(self, duration_s: int, one: Loaded) -> Loaded:
        more = ("--no-profile",) if one.weighed or one.turns else ()  # which the first run of an engine tells
        return replace(one, turns=[*one.turns, self._asked(one, duration_s, *_UNWEIGHED, *more)])

    def _asked(self, one: Loaded, duration_s: int, *more: str) -> MeasureDone:
        words = ["--engine", one.built.remote, "--batch", str(one.built.batch), "--folder", self.session.folder]
        words += ["--duration-s", str(duration_s)]
        for name in ("warmup_s", "idle_s", "timeout_s"):
            words += [f"--{name.replace('_', '-')}", f"{getattr(self.config, name):g}"]
        words += ["--lock-clocks"] if self.config.lock_clocks else []
        words += ["--power-mode", self.config.power_mode] if self.config.power_mode else []
        words += [*more, *one.built.shapes]
        run_s = hangs_after_s(self.config.warmup_s + self.config.duration_s, self.config.timeout_s)
        return self.session.agent(MeasureDone, *words, takes_s=self.config.idle_s + 2 * run_s)

    def _judged(self, one: Loaded, out: Path | None) -> EvalDone:
        assert self.images is not None
        model, built, recorder = one.model, one.built, one.recorder
        dataset = self.images.dataset(model.spec)
        folder = self.images.on(self.session, dataset.val, model.spec)
        log.info("%s: %d images through %s", self.session.board.name, len(dataset.val), label_of(model.path))
        limit_s, place = self.config.timeout_s, out / "predictions.npy" if out else None
        logits, answer = logits_of(self.session, built.remote, built.batch, dataset.val, folder, timeout_s=limit_s)
        logits = in_order(logits, answer, model.spec.parts)
        recorder.notes += answer.restored
        runtime = f"tensorrt {release_of(answer.tensorrt)}"
        judge = self.images.judge_of(model)
        if judge is None:
            guessed = guessed_from(logits, dataset, runtime)
            recorder.accuracy.append(guessed.accuracy(dataset, model.sha256, out=place))
            recorder.warnings += doubts_of(guessed.predictions, dataset.classes)
        else:
            recorder.closeness.append(closeness_from(logits, model, judge, dataset=dataset, runtime=runtime))
        notes, warnings = self.images.remarks(model.spec)
        recorder.notes += notes
        recorder.warnings += warnings
        reference = onnx_of(model)
        agreement = agreement_with(reference, dataset.val, logits) if reference else None
        recorder.results["figures"]["agreement"] = agreement
        return answer


def images_for(models: Sequence[Model], config: BoardConfig, whole: Model | None = None) -> Images | None:
    """The images all models share; raises InputError for a model no board can take, or the data set does not suit.

    `whole` is what they are held against where labels cannot tell what is right and the options name nothing.
    """
    for model in models:
        check_model(model)
    if config.data is None:
        return None
    images = Images(config.data, config.images, config.download, config.reference, whole)
    for model in models:
        if isinstance(model, OnnxModel) and is_channels_last(image_input(model.proto, model.path)[1][1:]):
            raise InputError(f"{model.path} takes channels last; the images of a board have channels first")
        if not isinstance(model, Engine) or model.manifest_path.is_file():
            images.judge_of(model)
    return images


def check_model(model: Model) -> None:
    """Raises InputError for a file that no board can take."""
    path = model.path
    if isinstance(model, OnnxModel):
        check_for_tensorrt(model)
        if _has_uint8_pairs(model):
            raise InputError(
                f"{path} has uint8 Q/DQ pairs, which TensorRT refuses or takes for int8; repair it:"
                f" edgeres lint --fix {typed(path)}, or make one:"
                f" {advised('edgeres quantize', source_of(path) or 'FLOAT.onnx')} --profile tensorrt"
            )
        _ = model.card
        if model.beside:
            raise InputError(f"{path} keeps weights in {model.beside[0].name} beside it; a board takes one file")
    elif not isinstance(model, Engine):
        raise InputError(f"{path} is no ONNX file, which boards take: edgeres export {typed(path)} makes one")


def _has_uint8_pairs(model: OnnxModel) -> bool:
    """By the type of the zero points; a QuantizeLinear without one makes uint8."""
    uint8 = require("onnx", "onnx").TensorProto.UINT8
    view = GraphView(model.proto)
    types = {name: tensor.data_type for name, tensor in view.constants.items()}
    for node in view.nodes:
        zero_point = node.input[2] if node.op_type in QDQ and len(node.input) > 2 else ""
        without = attribute(node, "output_dtype", 0) or uint8 if node.op_type == Q and not zero_point else None
        if uint8 in (types.get(zero_point), without):
            return True
    return False


def built_on(
    session: Session,
    model: OnnxModel,
    batch: tuple[int, int, int],
    extra: tuple[str, ...],
    *,
    timeout_s: int,
    plan: str = PLAN,
) -> Built:
    """The engine of `model`, built on the board for (smallest, usual, largest) batch; `extra` options of trtexec."""
    check_opset(session, model)
    session.need(_KERNEL_BYTES + _ENGINE_SHARE * model.size_bytes, f"building {model.path.name}")
    log.info("%s: sending %s", session.board.name, label_of(model.path))
    remote, engine = session.upload(model.path, _ONNX), f"{session.folder}/{plan}"
    log.info("%s: building the engine of %s", session.board.name, label_of(model.path))
    names = () if model.batch is not None else ("minShapes", "optShapes", "maxShapes")  # of an open batch
    profile = [f"--{name}={_shape(model, size)}" for name, size in zip(names, batch, strict=False)]
    options = [f"--trtexec={option}" for option in (*profile, *extra)]
    words = ["--onnx", remote, "--engine", engine, "--precision", model.precision, "--timeout-s", str(timeout_s)]
    done = session.agent(BuildDone, *words, *options, takes_s=timeout_s)
    session.remove(_ONNX)
    return Built(engine, batch[1], done.engine_sha256, _shapes(model, batch[1]), done)


def brought(session: Session, engine: Engine, recorder: Recorder, plan: str) -> Built:
    """A finished engine, checked against the board by its header and manifest before it is sent."""
    try:
        recorder.notes += check_runnable(engine.path, host_of(session, engine.path), "tensorrt")
    except DeviceError as err:
        why, name = str(err).rpartition("; ")[0], session.board.name  # what follows builds on this machine
        onnx = manifest_of(engine).onnx_name if engine.manifest_path.is_file() else None
        todo = f"build one there: {advised('edgeres compile', source_of(engine.path) or onnx or 'MODEL.onnx', on=name)}"
        raise DeviceError(f"{name}: {why}; {todo}") from err
    if not engine.manifest_path.is_file():
        raise InputError(f"{engine.path} has no manifest {engine.manifest_path.name}: what it takes is unknown")
    session.need(engine.size_bytes, engine.path.name)
    log.info("%s: sending %s", session.board.name, label_of(engine.path))
    batch = engine.manifest.batch[1]
    return Built(session.upload(engine.path, plan), batch, engine.sha256, _shapes(engine, batch))


def onnx_of(engine: Model) -> OnnxModel | None:
    """The file the engine was built from, if it still lies beside it, unchanged; an ONNX file is its own."""
    if not isinstance(engine, Engine):
        return engine if isinstance(engine, OnnxModel) else None
    name = manifest_of(engine).onnx_name
    beside = [engine.path.with_name(name)] if name else []
    found = (OnnxModel(path) for path in (*beside, engine.path.with_suffix(".onnx")) if path.is_file())
    return next((one for one in found if one.sha256 == engine.manifest.onnx_sha256), None)


def _shapes(model: Model, batch: int) -> tuple[str, ...]:
    """What trtexec has to be told to time an engine with an open batch."""
    if isinstance(model, OnnxModel):
        return () if model.batch is not None else (f"--trtexec=--shapes={_shape(model, batch)}",)
    assert isinstance(model, Engine)
    smallest, _, largest = model.manifest.batch
    ((name, shape),) = model.manifest.inputs.items()
    sizes = "x".join(map(str, (batch, *shape[1:])))
    return () if smallest == largest else (f"--trtexec=--shapes={name}:{sizes}",)


def _shape(model: OnnxModel, batch: int) -> str:
    name, (_, *image) = image_input(model.proto, model.path)
    return f"{name}:{'x'.join(map(str, (batch, *image)))}"


def _of_build(built: Built, session: Session) -> dict[str, Any]:
    done = built.done
    return {
        "batch": built.batch,
        "engine_sha256": built.sha256,
        "engine_bytes": done.engine_bytes if done else None,
        "build_s": done.facts.build_s if done else None,
        "build_command": without_folder(done.command, session) if done else None,
    }


def without_folder(command: Sequence[str], session: Session) -> list[str]:
    """The command with names for paths: the run's folder is gone by the time it is read."""
    return [word.replace(f"{session.folder}/", "") for word in command]
