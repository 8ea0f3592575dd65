"""Quantization-aware training: the folded float graph learns under the fake quantization it will be written with.

It starts from the bounds of a scale table, batch norms are folded already, and weights, biases and bounds are trained
together against the float graph's own logits; labels are optional. A part of the train images is held out: the weights
closest to float there are kept (with labels, those with the smallest sum of both losses), so that on these images the
result is never worse than PTQ. val is never looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import Field

from edgeres.core.artifacts import SCALED_KEY, OnnxModel
from edgeres.core.errors import InputError
from edgeres.core.names import lookup
from edgeres.core.stage import Recorder, StageResult
from edgeres.quantize.calibrators import CALIBRATORS
from edgeres.quantize.choosing import SCALING, CalibrationImages, bounds_by, check_improvements, improved
from edgeres.quantize.scales import check_float
from edgeres.train.config import LoopConfig

if TYPE_CHECKING:
    from edgeres.core.records.scales import ScaleTable
    from edgeres.data import Split
    from edgeres.models.network import Network
    from edgeres.quantize.decision import Decision
    from edgeres.quantize.placement import Placement
    from edgeres.train.loop import Fitted
    from edgeres.train.objectives import Objective
    from edgeres.train.plan import Plan

FILE_NAME = "model.int8.onnx"
_FEWEST_IMAGES = 64
_HELD_OUT = 0.1
_MOST_HELD_OUT = 500
_FEW_HELD_OUT = 100  # fewer choose the weights by the luck of single images
_LOOKS = 10
_WARMUP_SHARE = 0.1  # of the steps, at most


class QatConfig(LoopConfig):
    """What is learned from, and for how long; the teacher is the float graph itself."""

    data: str = Field(description="digits, cifar10, folder:PATH, package.module:function")
    scales: Path | None = Field(default=None, description="scale table of this model, made by edgeres calibrate")
    method: str = Field(default="mse", description="calibrator whose bounds are started from")
    images: int = Field(default=4000, ge=_FEWEST_IMAGES, description="of train; all if there are fewer")
    distill: float = Field(default=1.0, ge=0, description="weight of the float graph's logits")
    finetune: float = Field(default=0.0, ge=0, description="weight of the cross-entropy with labels")
    temperature: float = Field(default=2.0, gt=0, description="softening of the logits")
    improve: tuple[str, ...] = Field(default=(), description="start from channels, bias of edgeres quantize")
    stem: bool = Field(default=True, description="quantize the first layer")
    head: bool = Field(default=True, description="quantize the last layer")
    epochs: int = Field(default=3, ge=1, description="passes over the images")
    batch: int = Field(default=64, ge=1, description="images per step, over all processes")
    lr: float = Field(default=3e-5, gt=0, description="learning rate after the warm-up")
    weight_decay: float = Field(default=0.0, ge=0, description="of weights; not of biases and bounds")
    warmup_epochs: float = Field(
        default=0.3, ge=0, description="epochs of linear warm-up, a tenth of the steps at most"
    )
    download: bool = Field(default=False, description="fetch the data set if it is not here")

    def check(self) -> None:
        """The calibrator exists and something is learned from."""
        lookup(CALIBRATORS, self.method, "calibrator")
        check_improvements(self.improve)
        if "rounding" in self.improve:
            raise InputError("--improve rounding fixes the weights that are to be trained; leave it out")
        if not (self.distill or self.finetune):
            raise InputError("--distill 0 and --finetune 0 leave nothing to learn from")

    def needless(self) -> dict[str, str]:
        """What belongs to the float graph's logits, where they are not looked at."""
        return {} if self.distill else {"temperature": "it softens the logits of --distill"}


@dataclass(frozen=True)
class Trained:
    """The decision with the best weights, how the training went, and held-out divergence before it."""

    decision: Decision
    fitted: Fitted
    held_out: int


def qat(source: OnnxModel, config: QatConfig, out_dir: Path) -> StageResult[OnnxModel]:
    """Writes out_dir/model.int8.onnx; interrupted, the same call goes on from out_dir/state.pt.

    Raises:
        InputError: no scale table, one of another model, a model that is quantized already, too few train images.
        StageError: the loss is not finite.
        KeyboardInterrupt: Ctrl-C; the state has been saved.
    """
    from edgeres.quantize.insert import with_pairs
    from edgeres.quantize.placement import placement_of
    from edgeres.quantize.profiles import set_metadata
    from edgeres.quantize.stage import source_of, table_for, write_quantized
    from edgeres.train.processes import is_main, wait_for_all
    from edgeres.train.state import clear_state

    recorder = Recorder("qat", config, source)
    config.check()
    check_float(source)
    table = table_for(source, config.scales, config.method)
    source = source_of(table, source)
    placement = placement_of(source.proto, stem=config.stem, head=config.head)
    start = _start(source, table, placement, config)
    done = trained(source, placement, start, config=config, out_dir=out_dir)
    path = out_dir / FILE_NAME
    if is_main():
        model = with_pairs(source.proto, placement, done.decision)
        if SCALING in config.improve:
            set_metadata(model, SCALED_KEY, "1")
        write_quantized(model, source, path)
        clear_state(out_dir)
    wait_for_all()
    recorder.results |= _results(done, config)
    recorder.notes.append(_note(done, config))
    recorder.warnings += _warnings(done)
    output = OnnxModel(path)
    return StageResult(output, recorder.finish(output))


def trained(source: OnnxModel, placement: Placement, start: Decision, *, config: QatConfig, out_dir: Path) -> Trained:
    """`start` after training; the state stays in `out_dir`. Errors as of `qat`."""
    from edgeres.graph.execute import GraphNetwork
    from edgeres.quantize.simulate import Simulation
    from edgeres.train.batches import batches_for
    from edgeres.train.loop import Training, fit

    learn, held_out = _parts(source, config)
    config = config.model_copy(update={"batch": min(config.batch, len(learn))})
    teacher = GraphNetwork(source.proto).requires_grad_(False)
    simulation = Simulation(source.proto, placement, start)
    student = cast("Network", simulation)
    plan = _plan(teacher, (held_out, source), len(learn), config)
    data = batches_for(learn, source.spec, config)
    fitted = fit(Training(student, _objective(teacher, config), data, config, out_dir), plan)
    simulation.cpu().load_state_dict(fitted.weights)
    return Trained(simulation.decision(), fitted, len(held_out))


def _start(source: OnnxModel, table: ScaleTable, placement: Placement, config: QatConfig) -> Decision:
    """The table's bounds by the method; tensors that were always zero get a usual one."""
    from edgeres.quantize.decision import Decision
    from edgeres.quantize.stage import DEAD_AMAX

    bounds = bounds_by(table, config.method, placement.observed)
    start = Decision({name: amax or DEAD_AMAX for name, amax in bounds.items()})
    images = CalibrationImages(source, table, config.data)
    return improved(source.proto, placement, start, config.improve, images)


def _parts(source: OnnxModel, config: QatConfig) -> tuple[Split, Split]:
    """(images to learn from, images held out)."""
    from edgeres.data import dataset_for

    train = dataset_for(source.spec, config.data, download=config.download).train
    if len(train) < _FEWEST_IMAGES:
        raise InputError(f"{config.data} has {len(train)} train images; training needs {_FEWEST_IMAGES} or more")
    sample = train.sample(min(config.images, len(train)), config.seed)
    n = min(round(_HELD_OUT * len(sample)), _MOST_HELD_OUT)
    return sample.subset(range(n, len(sample))), sample.subset(range(n))


def _plan(teacher: Any, held_out: tuple[Split, OnnxModel], learned: int, config: QatConfig) -> Plan:
    """How many steps, and a look at the divergence from float on held-out images now and then."""
    import numpy as np
    import torch
    from torch.nn import functional

    from edgeres.quantize.auto import fidelity_of, logits_of
    from edgeres.train.plan import Plan

    split, source = held_out
    pieces = list(split.batches(source.spec, config.batch))
    images = np.concatenate([x for x, _ in pieces])
    labels = torch.from_numpy(np.concatenate([y for _, y in pieces]))
    reference = logits_of(teacher, images)

    def divergence(network: Any) -> float:
        device = next(network.parameters()).device
        with torch.inference_mode():
            logits = torch.cat([network(torch.from_numpy(x).to(device)).cpu() for x in np.array_split(images, _LOOKS)])
        loss = float(functional.cross_entropy(logits, labels)) if config.finetune else 0.0
        return config.distill * fidelity_of(reference, logits).kl + config.finetune * loss

    per_epoch = learned // config.batch
    steps = config.epochs * per_epoch
    warmup = min(round(config.warmup_epochs * per_epoch), round(_WARMUP_SHARE * steps))
    return Plan(steps, warmup, score=divergence, look_every=max(1, steps // _LOOKS))


def _objective(teacher: Any, config: QatConfig) -> Objective:
    import torch
    from torch.nn import functional

    from edgeres.train.objectives import soft_divergence

    def objective(network: Any, images: Any, labels: Any) -> Any:
        logits = network(images)
        loss = logits.new_zeros(())
        if config.distill:
            teacher.to(images.device)
            with torch.no_grad():
                goal = teacher(images)
            loss = loss + config.distill * soft_divergence(logits, goal, config.temperature)
        if config.finetune:
            loss = loss + config.finetune * functional.cross_entropy(logits, labels)
        return loss

    return objective


def _results(done: Trained, config: QatConfig) -> dict[str, Any]:
    fitted = done.fitted
    best = min(fitted.looks, key=lambda look: look[1])
    return {
        "method": config.method,
        "steps": fitted.steps,
        "first_step": fitted.first_step,
        "final_loss": round(fitted.final_loss, 6),
        "images_per_s": round(fitted.images_per_s, 1),
        "held_out": done.held_out,
        "best_step": best[0],
        "held_out_loss": best[1],
        "held_out_loss_first": fitted.looks[0][1],
    }


def _note(done: Trained, config: QatConfig) -> str:
    what = "loss (KL from float and cross-entropy, as weighted)" if config.finetune else "KL from float"
    first, best = done.fitted.looks[0][1], min(value for _, value in done.fitted.looks)
    return f"{what} on {done.held_out} held-out train images: {first:.2g} before training, {best:.2g} after"


def _warnings(done: Trained) -> list[str]:
    """What makes the choice of weights doubtful, or the training useless."""
    found = []
    if done.held_out < _FEW_HELD_OUT:
        usual = round(_FEW_HELD_OUT / _HELD_OUT)
        found.append(f"only {done.held_out} held-out images chose the weights; {usual} --images or more make it sure")
    first = done.fitted.looks[0]
    if min(value for _, value in done.fitted.looks) >= first[1]:
        advice = "try another --lr, more --epochs or more --images"
        found.append(
            f"training gained nothing: no weights were better than those it began with, kept as they were; {advice}"
        )
    return found
