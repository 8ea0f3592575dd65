"""One model on a board: the engine built, timed, weighed and judged there, and whether all that can be trusted.

    results = {"board": {"name", "model", "jetpack", "l4t", "tensorrt", "cuda", "power_mode", "gpu", "clocks_locked",
                         ...},
               "figures": {"p50_ms", "p99_ms", "images_per_s", "heat", "is_valid", "problems", "layers", "agreement",
                           "engine_sha256", "engine_bytes", "build_s", "command", ...}}

`is_valid` is None where the GPU's clock was not seen under load: then nothing speaks against the run, and not enough
for it. `p99_ms` is None below the calls that a 99th percentile takes.

Models of one call are timed one after the other, not interleaved: each is a session of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from edgeres.bench.agent.measure import hangs_after_s
from edgeres.bench.board_accuracy import Images, accuracy_from, agreement_with, judged
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
from edgeres.bench.board_figures import doubts_of, energy_notes, energy_of, figures_of, latency_of, p99_notes
from edgeres.bench.board_session import Session
from edgeres.core.artifacts import Engine, Model, OnnxModel
from edgeres.core.config import Config
from edgeres.core.errors import DeviceError, InputError, require
from edgeres.core.onnx_file import image_input, is_channels_last
from edgeres.core.stage import Recorder, StageReport
from edgeres.graph.view import QDQ, GraphView, Q, attribute
from edgeres.runtime.manifest import manifest_of
from edgeres.runtime.preflight import check_runnable

log = logging.getLogger(__name__)
BUILD_TIMEOUT_S = 3600
_ENGINE_SHARE = 3  # of the file's size: its engine, and what the builder writes besides
_ONNX, _PLAN = "model.onnx", "model.plan"


class BoardConfig(Config):
    """How to measure on a board."""

    batch: int = Field(1, ge=1, description="images per call, where the model leaves it open")
    warmup_s: int = Field(2, ge=0, description="seconds of warm-up before each run on the board")
    duration_s: int = Field(10, ge=1, description="seconds of each of the two runs, for latency and for energy")
    idle_s: float = Field(5.0, gt=0, description="seconds at rest before them, for the power at rest")
    lock_clocks: bool = Field(False, description="hold the board's clocks during the run (needs root there)")
    power_mode: str | None = Field(None, description="power mode of the board during the run, by name or id")
    data: str | None = Field(None, description="accuracy too, on val of: digits, cifar10, folder:PATH, ...")
    images: int | None = Field(None, gt=0, description="on this many images of val only (stratified)")
    download: bool = Field(False, description="fetch the data set if it is not here")
    timeout_s: int = Field(
        BUILD_TIMEOUT_S, ge=1, description="seconds after which a build, run or evaluation on the board is ended"
    )
    incidental: ClassVar[frozenset[str]] = Config.incidental | {"timeout_s"}

    def check(self) -> None:
        """The number of images goes with a data set."""
        if self.images is not None and self.data is None:
            raise InputError("--images is the number of images of a data set; name it: --data folder:PATH")

    @property
    def longest_s(self) -> float:
        """How long measuring takes at most."""
        return self.idle_s + 2 * hangs_after_s(self.warmup_s + self.duration_s, self.timeout_s)

    def check_time(self) -> None:
        """A run may take as long as it was asked to."""
        asked_s = self.warmup_s + self.duration_s
        if self.timeout_s <= asked_s:
            raise InputError(f"--timeout-s {self.timeout_s} would end a run, which takes {asked_s} s; give it more")


@dataclass(frozen=True)
class Built:
    """An engine on the board: options that time it at `batch`; how it was built, None for one that was brought."""

    remote: str
    batch: int
    sha256: str
    shapes: tuple[str, ...] = ()
    done: BuildDone | None = None


@dataclass(frozen=True)
class OnBoard:
    """A report of the stage "board", and what TensorRT says about the engine's layers where it says anything."""

    report: StageReport
    layers: str | None = None
    profile: str | None = None


@dataclass
class Bench:
    """A board at work on models, which share `images`: with `accuracy_only` nothing is timed."""

    session: Session
    config: BoardConfig
    images: Images | None = None
    accuracy_only: bool = False

    def __post_init__(self) -> None:
        """Raises InputError for a power mode that the board does not have, DeviceError if another run uses it."""
        if self.config.power_mode is not None:
            check_power_mode(self.session, self.config.power_mode)
        self._restored = self.session.claim()

    def run(self, model: Model, out: Path | None = None) -> OnBoard:
        """Builds, times and judges one model; predictions are written into the folder `out`.

        Raises:
            InputError: the file is nothing a board can take, or the data set does not suit it.
            DeviceError: the board cannot do it, in its own words; its files are gone by then.
        """
        check_model(model)
        recorder = Recorder("eval" if self.accuracy_only else "board", self.config, model)
        built = brought(self.session, model, recorder) if isinstance(model, Engine) else self._built(model)
        recorder.results["figures"] = figures = _of_build(built, self.session)
        recorder.notes += [*self._restored, *(built.done.restored if built.done else ())]
        self._restored = []
        recorder.warnings += without_int8(self.session, model)
        timed = None if self.accuracy_only else self._timed(built, model, recorder)
        judged = None if self.images is None else self._judged(built, model, recorder, out)
        recorder.results["board"] = facts_of(self.session, timed or built.done or judged or JobDone(restored=()))
        self.session.remove(_ONNX, _PLAN, "logits.bin")
        report = recorder.finish(None).model_copy(update={"precision": model.precision})
        log.info("%s: %s done", self.session.board.name, model.path.name)
        figures.setdefault("layers", None)
        return OnBoard(report, timed.layers, timed.profile) if timed else OnBoard(report)

    def _built(self, model: Model) -> Built:
        assert isinstance(model, OnnxModel)
        batch = model.batch or self.config.batch
        return built_on(self.session, model, (batch, batch, batch), (), timeout_s=self.config.timeout_s)

    def _timed(self, built: Built, model: Model, recorder: Recorder) -> MeasureDone:
        words = ["--engine", built.remote, "--batch", str(built.batch), "--folder", self.session.folder]
        for name in ("warmup_s", "duration_s", "idle_s", "timeout_s"):
            words += [f"--{name.replace('_', '-')}", f"{getattr(self.config, name):g}"]
        words += ["--lock-clocks"] if self.config.lock_clocks else []
        words += ["--power-mode", self.config.power_mode] if self.config.power_mode else []
        words += built.shapes
        answer = self.session.agent(MeasureDone, *words, takes_s=self.config.longest_s)
        recorder.notes += answer.restored
        facts = facts_of(self.session, answer)
        recorder.latency.append(latency_of(answer, model, machine_of(facts), warmup_s=self.config.warmup_s))
        recorder.energy += energy_of(answer, model, machine_of(facts))
        recorder.results["figures"] |= figures_of(answer)
        recorder.notes += p99_notes(answer, self.config.duration_s)
        recorder.results["figures"]["command"] = without_folder(answer.command, self.session)
        recorder.warnings += [f"invalid: {problem}" for problem in answer.problems] or doubts_of(answer)
        recorder.warnings += distinct(answer.warnings)
        recorder.notes += energy_notes(answer)
        return answer

    def _judged(self, built: Built, model: Model, recorder: Recorder, out: Path | None) -> EvalDone:
        assert self.images is not None
        dataset = self.images.dataset(model.spec)
        folder = self.images.on(self.session, dataset.val, model.spec)
        log.info("%s: %d images through %s", self.session.board.name, len(dataset.val), model.path.name)
        found = judged(self.session, built.remote, built.batch, dataset.val, folder, timeout_s=self.config.timeout_s)
        recorder.notes += found.answer.restored
        accuracy = accuracy_from(
            found,
            dataset,
            runtime=f"tensorrt {release_of(found.answer.tensorrt)}",
            artifact=model.sha256,
            out=out / "predictions.npy" if out else None,
        )
        recorder.accuracy.append(accuracy)
        notes, warnings = self.images.remarks(model.spec)
        recorder.notes += notes
        recorder.warnings += warnings
        reference = onnx_of(model)
        agreement = agreement_with(reference, dataset.val, found) if reference else None
        recorder.results["figures"]["agreement"] = agreement
        return found.answer


def images_for(models: Sequence[Model], config: BoardConfig) -> Images | None:
    """The images all models share; raises InputError for a model no board can take, or the data set does not suit."""
    for model in models:
        check_model(model)
    if config.data is None:
        return None
    images = Images(config.data, config.images, config.download)
    for model in models:
        if isinstance(model, OnnxModel) and is_channels_last(image_input(model.proto, model.path)[1][1:]):
            raise InputError(f"{model.path} takes channels last; the images of a board have channels first")
        if not isinstance(model, Engine) or model.manifest_path.is_file():
            images.dataset(model.spec)
    return images


def check_model(model: Model) -> None:
    """Raises InputError for a file that no board can take."""
    path = model.path
    if isinstance(model, OnnxModel):
        model.check_for_tensorrt()
        if _has_uint8_pairs(model):
            raise InputError(
                f"{path} has uint8 Q/DQ pairs, which TensorRT refuses or takes for int8; repair it: edgeres lint --fix"
                f" {path}, or make one: edgeres quantize --profile tensorrt"
            )
        _ = model.card
        if model.beside:
            raise InputError(f"{path} keeps weights in {model.beside[0].name} beside it; a board takes one file")
    elif not isinstance(model, Engine):
        raise InputError(f"{path} is no ONNX file, which boards take: edgeres export {path} makes one")


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
    timeout_s: int = BUILD_TIMEOUT_S,
) -> Built:
    """The engine of `model`, built on the board for (smallest, usual, largest) batch; `extra` options of trtexec."""
    check_model(model)
    check_opset(session, model)
    session.need(_ENGINE_SHARE * model.size_bytes, f"building {model.path.name}")
    log.info("%s: sending %s", session.board.name, model.path.name)
    remote, plan = session.upload(model.path, _ONNX), f"{session.folder}/{_PLAN}"
    log.info("%s: building the engine of %s", session.board.name, model.path.name)
    names = () if model.batch is not None else ("minShapes", "optShapes", "maxShapes")  # of an open batch
    profile = [f"--{name}={_shape(model, size)}" for name, size in zip(names, batch, strict=False)]
    options = [f"--trtexec={option}" for option in (*profile, *extra)]
    words = ["--onnx", remote, "--engine", plan, "--precision", model.precision, "--timeout-s", str(timeout_s)]
    done = session.agent(BuildDone, *words, *options, takes_s=timeout_s)
    return Built(plan, batch[1], done.engine_sha256, _shapes(model, batch[1]), done)


def brought(session: Session, engine: Engine, recorder: Recorder) -> Built:
    """A finished engine, checked against the board by its header and manifest before it is sent."""
    recorder.notes += _remarks(session, engine)
    if not engine.manifest_path.is_file():
        raise InputError(f"{engine.path} has no manifest {engine.manifest_path.name}: what it takes is unknown")
    session.need(engine.size_bytes, engine.path.name)
    log.info("%s: sending %s", session.board.name, engine.path.name)
    batch = engine.manifest.batch[1]
    return Built(session.upload(engine.path, _PLAN), batch, engine.sha256, _shapes(engine, batch))


def _remarks(session: Session, engine: Engine) -> tuple[str, ...]:
    """What is worth knowing about the engine on this board; raises DeviceError if it cannot run there."""
    try:
        return check_runnable(engine.path, host_of(session, engine.path), "tensorrt")
    except DeviceError as err:
        why, name = str(err).rpartition("; ")[0], session.board.name  # what follows builds on this machine
        onnx = manifest_of(engine).onnx_name if engine.manifest_path.is_file() else None
        raise DeviceError(
            f"{name}: {why}; build one there: edgeres compile {onnx or 'MODEL.onnx'} --on {name}"
        ) from err


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


def distinct(lines: Sequence[str]) -> list[str]:
    """Each once, with how often it came."""
    return [line + (f" ({count} times)" if (count := lines.count(line)) > 1 else "") for line in dict.fromkeys(lines)]
