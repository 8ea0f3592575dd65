"""A network from nothing: data -> checkpoint. Imports no torch before it trains."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from edgeres.core.artifacts import Checkpoint
from edgeres.core.errors import InputError
from edgeres.core.spec import ModelSpec
from edgeres.core.stage import Recorder, StageResult
from edgeres.core.stated import check_pixels
from edgeres.models.family import Ordering
from edgeres.train.config import LoopConfig

if TYPE_CHECKING:
    from torch import nn

    from edgeres.data import Dataset
    from edgeres.models.network import Network
    from edgeres.train.loop import Evaluate, Fitted
    from edgeres.train.objectives import Objective

MODEL_NAME = "model.safetensors"
_RESIZE_RATIO = 256 / 224  # shorter side over crop, as usual on ImageNet
_log = logging.getLogger(__name__)


class TrainConfig(LoopConfig):
    """Options of `edgeres train`."""

    arch: str = Field(default="resnet20", description="network, see: edgeres ls models")
    data: str = Field(default="digits", description="data set, see: edgeres ls data")
    ordering: Ordering = Field(default="original", description="order of batch norm, activation, addition")
    shortcut: Literal["A", "B", "C"] | None = Field(default=None, description="zero-pad or projections")
    width: int | None = Field(default=None, ge=1, description="channels of the first stage")
    layers: int | None = Field(default=None, ge=1, le=64, description="layers in a module")
    bottleneck: bool | None = Field(default=None, description="1x1, 3x3, 1x1 modules")
    image_size: int | None = Field(default=None, description="side of the input in pixels")
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="share given to all classes")
    stochastic_depth: float = Field(default=0.0, ge=0, lt=1, description="chance of skipping the last module")
    teacher: Path | None = Field(default=None, description="checkpoint to distil from")
    distill_weight: float = Field(default=0.9, ge=0, le=1, description="share of the teacher in the loss")
    temperature: float = Field(default=4.0, gt=0, description="softens both logits in distillation")
    download: bool = Field(default=False, description="fetch the data set if it is not here")
    val_every: int = Field(default=1, ge=0, description="epochs between glances at val, 0 for never")

    def check(self) -> None:
        """The network exists with these options, and so does the teacher's file."""
        from edgeres.models import spec_from_arch

        spec_from_arch(self.arch, num_classes=2, options=_options(self))
        check_pixels("image-size", self.image_size)
        if self.teacher is not None and not self.teacher.is_file():
            raise InputError(f"the teacher {self.teacher} does not exist")


def train(source: None, config: TrainConfig, out_dir: Path) -> StageResult[Checkpoint]:
    """Writes `out_dir`/model.safetensors and log.csv; interrupted, the same call goes on from state.pt.

    The report holds the training loss only; accuracy is measured by `eval`.

    Raises:
        InputError: the data, the architecture or the teacher do not fit together.
        StageError: the loss is not finite.
    """
    import torch

    from edgeres.data import dataset_for, dataset_from
    from edgeres.models import network_from
    from edgeres.models.weights import save_checkpoint
    from edgeres.train.batches import batches_for
    from edgeres.train.loop import Training, fit
    from edgeres.train.processes import is_main, wait_for_all
    from edgeres.train.state import clear_state

    recorder = Recorder("train", config, source)
    teacher = Checkpoint(config.teacher) if config.teacher else None
    dataset = (
        dataset_for(teacher.spec, config.data, download=config.download)
        if teacher
        else dataset_from(config.data, download=config.download)
    )
    spec = spec_on(dataset, config.arch, _options(config), config.image_size)
    torch.manual_seed(config.seed)
    network = network_from(spec)
    objective = _objective(config, spec, network, teacher)
    batches = batches_for(dataset.train, spec, config)
    glance = _top1_on(dataset, spec) if config.val_every else None
    fitted = fit(Training(network, objective, batches, config, out_dir, glance, config.val_every))
    output = Checkpoint(out_dir / MODEL_NAME)
    if is_main():
        save_checkpoint(fitted.weights, spec, output.path, stage="train")
        clear_state(out_dir)
    wait_for_all()
    _record(recorder, fitted, config)
    return StageResult(output, recorder.finish(output))


def spec_on(
    dataset: Dataset, arch: str, options: dict[str, str | int | float], image_size: int | None = None
) -> ModelSpec:
    """The spec of `arch` for the images and classes of the data set, if asked for at another size.

    Raises InputError if there is no such network.
    """
    from edgeres.models import spec_from_arch

    preprocess, shape = dataset.preprocess, dataset.input_shape
    if image_size is not None and shape[1:] != (image_size, image_size):
        shape = (shape[0], image_size, image_size)
        preprocess = preprocess.model_copy(update={"resize": round(image_size * _RESIZE_RATIO)})
    return spec_from_arch(
        arch,
        num_classes=len(dataset.classes),
        preprocess=preprocess,
        input_shape=shape,
        classes=dataset.classes,
        options=options,
    )


def _options(config: TrainConfig) -> dict[str, str | int | float]:
    chosen = config.model_dump(include={"ordering", "shortcut", "width", "layers", "bottleneck"})
    return {name: value for name, value in chosen.items() if value not in (None, "original")}


def _objective(config: TrainConfig, spec: ModelSpec, network: Network, teacher: Checkpoint | None) -> Objective:
    from edgeres.models.weights import load_network
    from edgeres.train.objectives import cross_entropy, distilled, renormaliser, set_survival

    if config.stochastic_depth:
        set_survival(network, 1 - config.stochastic_depth)
    if teacher is None:
        return cross_entropy(config.label_smoothing)
    if teacher.spec.input_shape != spec.input_shape:
        raise InputError(
            f"the teacher {teacher.path} takes images {teacher.spec.input_shape}, {spec.variant} takes"
            f" {spec.input_shape}; they must be equal"
        )
    return distilled(
        load_network(teacher),
        weight=config.distill_weight,
        temperature=config.temperature,
        label_smoothing=config.label_smoothing,
        adapt=renormaliser(spec.preprocess, teacher.spec.preprocess),
    )


def _top1_on(dataset: Dataset, spec: ModelSpec) -> Evaluate:
    """Top-1 on val in torch, for the log alone."""
    from edgeres.evaluate.tally import right_on

    def top1(network: nn.Module) -> float:
        network.eval()
        right = right_on(network, dataset.val, spec)
        network.train()
        return float(right.mean())

    return top1


def _record(recorder: Recorder, fitted: Fitted, config: TrainConfig) -> None:
    recorder.results |= {
        "final_loss": round(fitted.final_loss, 6),
        "epochs": config.epochs,
        "steps": fitted.steps,
        "first_step": fitted.first_step,
        "images_per_s": round(fitted.images_per_s, 1),
        "seed": config.seed,
        "processes": fitted.processes,
        "device": fitted.device,
        "precision": fitted.precision,
    }
    if fitted.first_step:
        recorder.notes.append(f"went on from step {fitted.first_step} of {fitted.steps}")
    if config.ema:
        recorder.notes.append("weights are the running average")
