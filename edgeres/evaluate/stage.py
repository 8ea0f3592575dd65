"""`edgeres eval`: top-1 and top-5 of any model that runs here, each prediction kept for paired comparisons."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edgeres.core.artifacts import Model, model_from
from edgeres.core.errors import InputError
from edgeres.core.files import written
from edgeres.core.metrics import Z_95, Accuracy, OwnFigure
from edgeres.core.names import DATA_NAMES, result_of
from edgeres.core.spec import FROM_ONNX
from edgeres.core.stage import Recorder, StageReport
from edgeres.core.stated import InputOptions, as_in, with_input
from edgeres.data import Dataset, dataset_for, dataset_from
from edgeres.evaluate.order import doubts_of_order
from edgeres.runtime import runner_for, runtime_of
from edgeres.runtime.runner import Logits, RunnerOptions, check_outputs, infer_all


class EvalConfig(InputOptions):
    """What to evaluate on; always the whole val split unless `images` says otherwise."""

    unsaid: ClassVar[frozenset[str]] = InputOptions.unsaid | {"reference", "metric"}

    data: str = Field(description=DATA_NAMES)
    images: int | None = Field(None, gt=0, description="evaluate on this many images of val only (stratified)")
    batch: int = Field(250, gt=0, description="images at a time")
    threads: int | None = Field(None, gt=0, description="CPU threads; default: the runtime's choice")
    download: bool = Field(False, description="fetch the data set if it is not here")
    reference: Path | None = Field(
        None, description="whose outputs count as right where no label can; default: the run's whole float network"
    )
    metric: str | None = Field(None, description="your own figure: package.module:function of (outputs, labels)")


def evaluate(
    source: Model, config: EvalConfig, predictions: Path | None = None, whole: Model | None = None
) -> StageReport:
    """A report with the accuracy of `source`; the predictions are written to `predictions` if given.

    Without classes or without labels it has the closeness to `config.reference`, or to `whole`, instead.
    """
    runtime_of(source)  # what cannot run here is refused before any data is fetched
    recorder = Recorder("eval", config, source)
    source = with_input(source, config)
    dataset = dataset_for(source.spec, config.data, download=config.download)
    if source.spec.family == FROM_ONNX and not source.spec.classes and dataset.val.is_labelled:
        recorder.warnings.append("its file names no classes: outputs were taken in the order of the data set's")
    if config.images is not None and config.images < len(dataset.val):
        dataset = replace(dataset, val=dataset.val.sample(config.images, 0))
        recorder.warnings.append(f"evaluated on {config.images} of the val images only")
    how: dict[str, Any] = {"batch": config.batch, "threads": config.threads}
    if config.metric is not None:
        recorder.metric = metric_of(source, dataset, config)
    is_unjudged = config.metric is not None and not dataset.val.is_labelled and not (config.reference or whole)
    reference = None if is_unjudged else judge_of(source, dataset, config.reference, whole)
    if is_unjudged:
        recorder.notes.append("only --metric judges it: there are no labels, and no --reference")
    elif reference is None:
        guessed = guessed_by(source, dataset, **how)
        recorder.accuracy.append(guessed.accuracy(dataset, source.sha256, out=predictions))
        recorder.warnings += doubts_of_order(guessed.predictions, dataset.classes)
    else:
        from edgeres.evaluate.closeness import closeness_of

        recorder.closeness.append(closeness_of(source, reference, dataset, **how))
    return recorder.finish(None)


def metric_of(model: Model, dataset: Dataset, config: EvalConfig) -> OwnFigure:
    """The user's own figure; of one number an image the mean.

    The function gets what the network gives for all of val, float32 (N, ...), several outputs flattened side by side,
    and the labels int64 (N,) as the data set has them, -1 for none. Raises InputError unless it returns one finite
    number, or N.
    """
    assert config.metric is not None
    labels = dataset.val.labels
    if model.spec.task != "classes":
        whole = dataset_from(config.data, download=config.download, exif=model.spec.preprocess.exif).val
        known = dict(zip(whole.ids, whole.labels, strict=True))
        labels = np.asarray([known[one] for one in dataset.val.ids], np.int64)
    with runner_for(model, RunnerOptions(threads=config.threads)) as runner:
        shown = dataset.val.shown(model.spec, config.batch, config.metric)
        outputs = np.concatenate([infer_all(runner, x) for x, _ in shown])
    found = result_of(config.metric, "metric", outputs, labels)
    try:
        each = np.asarray(found, np.float64)
    except (TypeError, ValueError):
        each = np.empty(0)
    if each.shape not in {(), labels.shape} or not np.isfinite(each).all():
        raise InputError(f"metric {config.metric!r} returned {found!r:.60}, not a finite number or {len(labels)}")
    half = None if each.ndim == 0 else Z_95 * float(each.std()) / math.sqrt(len(each))
    name = config.metric.rpartition(":")[2]
    return OwnFigure(name=name, value=float(each.mean()), half_width=half, n=len(labels))


def judge_of(source: Model, dataset: Dataset, named: Path | None, whole: Model | None) -> Model | None:
    """What `source` is held against: the network `named`, or `whole`; None where labels tell what is right.

    Raises InputError if that takes other images or gives something else, or if there is nothing, or no use for it.
    """
    if dataset.val.is_labelled:
        if named is not None:
            raise InputError(f"{dataset.name} has labels, by which {source.path} is judged; leave out --reference")
        return None
    reference = whole if named is None else model_from(named)
    if reference is None:
        why = "no labels are there" if source.spec.task == "classes" else f"it gives {source.spec.outputs_text}"
        raise InputError(
            f"{source.path} is judged by another network, {why}: --reference FILE, the float network it comes from"
        )
    reference = reference if reference.spec.preprocess.is_known else as_in(reference, source)
    for what in ("task", "num_classes", "parts", "input_shape", "preprocess"):
        mine, theirs = getattr(source.spec, what), getattr(reference.spec, what)
        if mine != theirs:
            raise InputError(f"{source.path} cannot be held against {reference.path}: {what} is {mine} and {theirs}")
    return reference


class Guessed(NamedTuple):
    """What a model guesses, executed by `runtime`: uint16 (n, 2), columns prediction and label."""

    predictions: NDArray[np.uint16]
    in_top5: int
    runtime: str

    def accuracy(self, dataset: Dataset, artifact: str, *, split: str = "val", out: Path | None = None) -> Accuracy:
        """The accuracy on the split; with `out` the predictions are written there, .npy."""
        if out is not None:
            with written(out) as temporary, temporary.open("wb") as file:
                np.save(file, self.predictions)
        return Accuracy(
            correct_top1=int((self.predictions[:, 0] == self.predictions[:, 1]).sum()),
            correct_top5=self.in_top5,
            n=len(self.predictions),
            dataset=dataset.name,
            split=split,
            runtime=self.runtime,
            artifact=artifact,
            predictions=out.name if out else None,
        )


def guessed_by(
    model: Model, dataset: Dataset, *, split: str = "val", batch: int = 250, threads: int | None = None
) -> Guessed:
    """What `model` guesses on `split`; Q/DQ nodes are evaluated literally, ort-cpu files fused.

    Raises InputError if the outputs are no scores of the classes, StageError if one is not finite.
    """
    images = dataset.train if split == "train" else dataset.val
    images.check_labelled("top-1")
    guesses, labels, in_top5 = [], [], 0
    with runner_for(model, RunnerOptions(threads=threads)) as runner:
        for x, y in images.shown(model.spec, batch, f"eval {model.path.name}"):
            logits = infer_all(runner, x)
            check_outputs(logits, model.spec.num_classes, f"eval: {model.path}", model.spec.task)
            guesses.append(logits.argmax(1))
            labels.append(y)
            in_top5 += hits(logits, y, 5)
        name = runner.name
    predictions = np.stack([np.concatenate(guesses), np.concatenate(labels)], axis=1).astype(np.uint16)
    return Guessed(predictions, in_top5, name)


def accuracy_of(
    model: Model,
    dataset: Dataset,
    *,
    split: str = "val",
    batch: int = 250,
    threads: int | None = None,
    out: Path | None = None,
) -> Accuracy:
    """Accuracy of `model` on `split`; with `out` the predictions are written there."""
    guessed = guessed_by(model, dataset, split=split, batch=batch, threads=threads)
    return guessed.accuracy(dataset, model.sha256, split=split, out=out)


def hits(logits: Logits, labels: NDArray[np.int64], k: int) -> int:
    """How many rows have their label among the k largest logits (all of them if there are at most k classes)."""
    if logits.shape[1] <= k:
        return len(labels)
    best = np.argpartition(-logits, k - 1, axis=1)[:, :k]
    return int((best == labels[:, None]).any(1).sum())
