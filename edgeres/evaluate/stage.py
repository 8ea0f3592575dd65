"""`edgeres eval`: the accuracy of one model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pydantic import Field

from edgeres.core.artifacts import Model
from edgeres.core.spec import FROM_ONNX
from edgeres.core.stage import Recorder, StageReport
from edgeres.core.stated import InputOptions, with_input


class EvalConfig(InputOptions):
    """What to evaluate on; always the whole val split unless `images` says otherwise."""

    data: str = Field(description="digits, cifar10, folder:PATH, package.module:function")
    images: int | None = Field(None, gt=0, description="evaluate on this many images of val only (stratified)")
    batch: int = Field(250, gt=0, description="images at a time")
    threads: int | None = Field(None, gt=0, description="CPU threads; default: the runtime's choice")
    download: bool = Field(False, description="fetch the data set if it is not here")


def evaluate(source: Model, config: EvalConfig, predictions: Path | None = None) -> StageReport:
    """A report with the accuracy of `source`; the predictions are written to `predictions` if given."""
    from edgeres.data import dataset_for
    from edgeres.evaluate.accuracy import accuracy_of
    from edgeres.runtime import runtime_of

    runtime_of(source)  # what cannot run here is refused before any data is fetched
    recorder = Recorder("eval", config, source)
    source = with_input(source, config)
    dataset = dataset_for(source.spec, config.data, download=config.download)
    if source.spec.family == FROM_ONNX and not source.spec.classes:
        recorder.warnings.append("its file names no classes: outputs were taken in the order of the data set's")
    if config.images is not None and config.images < len(dataset.val):
        dataset = replace(dataset, val=dataset.val.sample(config.images, 0))
        recorder.warnings.append(f"evaluated on {config.images} of the val images only")
    recorder.accuracy.append(accuracy_of(source, dataset, batch=config.batch, threads=config.threads, out=predictions))
    return recorder.finish(None)
