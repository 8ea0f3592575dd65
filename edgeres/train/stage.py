"""A network from nothing: data -> checkpoint."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import nn

from edgeres.core.artifacts import Checkpoint
from edgeres.core.processes import is_main, wait_for_all
from edgeres.core.spec import ModelSpec
from edgeres.core.stage import Recorder, StageResult
from edgeres.data import Dataset, dataset_from
from edgeres.evaluate.sums import right_on
from edgeres.models import network_from, spec_from_arch
from edgeres.models.family import RESIZE_RATIO
from edgeres.models.weights import save_checkpoint
from edgeres.train.batches import batches_for
from edgeres.train.config import TrainConfig
from edgeres.train.loop import Evaluate, Training, fit
from edgeres.train.objectives import cross_entropy
from edgeres.train.state import clear_state

MODEL_NAME = "model.safetensors"
_log = logging.getLogger(__name__)


def train(source: None, config: TrainConfig, out_dir: Path) -> StageResult[Checkpoint]:
    """Writes `out_dir`/model.safetensors and log.csv; interrupted, the same call goes on from state.pt.

    The report holds the training loss only; accuracy is measured by `eval`.

    Raises:
        InputError: the data and the architecture do not fit together.
        StageError: the loss is not finite.
    """
    recorder = Recorder("train", config, source)
    dataset = dataset_from(config.data, download=config.download)
    spec = spec_on(dataset, config.arch, config.options, config.image_size)
    torch.manual_seed(config.seed)
    network = network_from(spec)
    batches = batches_for(dataset.train, spec, config)
    fitted = fit(Training(network, cross_entropy, batches, config, out_dir, _top1_on(dataset, spec)))
    output = Checkpoint(out_dir / MODEL_NAME)
    if is_main():
        save_checkpoint(fitted.weights, spec, output.path, stage="train")
        clear_state(out_dir)
    wait_for_all()
    recorder.results |= fitted.results("processes", "device", "precision")
    recorder.results |= config.model_dump(include={"epochs", "seed"})
    if fitted.first_step:
        recorder.notes.append(f"went on from step {fitted.first_step} of {fitted.steps}")
    if config.ema:
        recorder.notes.append("weights are the running average")
    return StageResult(output, recorder.finish(output))


def spec_on(
    dataset: Dataset, arch: str, options: dict[str, str | int | float], image_size: int | None = None
) -> ModelSpec:
    """The spec of `arch` for the images and classes of the data set, if asked for at another size.

    Raises InputError if there is no such network.
    """
    dataset.train.check_labelled("training")
    preprocess, shape = dataset.preprocess, dataset.input_shape
    if image_size is not None and shape[1:] != (image_size, image_size):
        shape = (shape[0], image_size, image_size)
        preprocess = preprocess.model_copy(update={"resize": round(image_size * RESIZE_RATIO)})
    return spec_from_arch(
        arch,
        num_classes=len(dataset.classes),
        preprocess=preprocess,
        input_shape=shape,
        classes=dataset.classes,
        options=options,
    )


def _top1_on(dataset: Dataset, spec: ModelSpec) -> Evaluate:
    """Top-1 on val in torch, for the log alone."""

    def top1(network: nn.Module) -> float:
        network.eval()
        right = right_on(network, dataset.val, spec)
        network.train()
        return float(right.mean())

    return top1
