"""`edgeres eval`: top-1 and top-5 of any model that runs here, each prediction kept for paired comparisons."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, starmap
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edgeres.core.artifacts import Model, OnnxModel, model_from
from edgeres.core.errors import InputError, few_of
from edgeres.core.files import written
from edgeres.core.input_options import InputOptions, as_in, with_input
from edgeres.core.metrics import Z_95, Accuracy, OwnFigure
from edgeres.core.names import DATA_NAMES, result_of
from edgeres.core.processes import is_main, shared, together
from edgeres.core.spec import FROM_ONNX
from edgeres.core.stage import Recorder, StageReport
from edgeres.data import Dataset, dataset_for, dataset_from
from edgeres.evaluate.closeness import check_alike, nearness_of, outputs_of
from edgeres.runtime import runner_for, runtime_of
from edgeres.runtime.runner import Images, Logits, RunnerOptions, infer_all

OTHER_ORDER = "would be if outputs stood for other classes"  # in the warning after which an accuracy means nothing
_MOST_CLASSES = 2000  # of which the guesses are kept, 32 MB
_LEAST_GAIN = 0.1  # of the images
_LEAST_SKILL, _SKILL_OF_FEW = 0.3, 1.4  # of the way from one guess to all right; over K, as few are easily mixed up
_IMAGES_A_CLASS = 5  # from so many on, on average, a class without any is worth a word
_LEAST_NATS = 7.0  # a chance of one in a thousand


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


@together
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
    is_ordered = dataset.val.is_labelled and not dataset.numbered
    if source.spec.family == FROM_ONNX and not source.spec.classes and is_ordered:
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
        recorder.accuracy.append(guessed.accuracy(dataset, source.sha256, out=predictions if is_main() else None))
        recorder.warnings += doubts_of(guessed.predictions, dataset.classes)
    else:
        recorder.closeness.append(nearness_of(source, reference, dataset, dataset.val, **how)[0])
    recorder.warnings += doubts_of_batch(source, config.batch)
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
        shown = dataset.val.own(model.spec.at_once(config.batch)).shown(model.spec, config.batch, config.metric)
        outputs = np.concatenate([*chain(*shared(lambda: [infer_all(runner, x) for x, _ in shown]))])
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
    check_alike(source, reference, f"{source.path} cannot be held against {reference.path}")
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

    def of_batch(x: Images, labels: NDArray[np.int64]) -> tuple[NDArray[np.uint16], int]:
        logits = outputs_of(runner, model, x)
        return np.stack([logits.argmax(1), labels], axis=1).astype(np.uint16), hits(logits, labels, 5)

    with runner_for(model, RunnerOptions(threads=threads)) as runner:
        batches = images.own(model.spec.at_once(batch)).shown(model.spec, batch, f"eval {model.path.name}")
        predictions, in_top5 = zip(*chain(*shared(lambda: list(starmap(of_batch, batches)))), strict=True)
        return Guessed(np.concatenate(predictions), sum(in_top5), runner.name)


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


def doubts_of_batch(model: Model, batch: int) -> list[str]:
    """A warning where an answer depends on the images beside it."""
    if not (isinstance(model, OnnxModel) and model.has_scales_of_its_batch):
        return []
    if (batch := model.batch or batch) == 1:
        return []
    said = f"{model.path.name} takes its scales from each batch, here of {batch} images"
    return [f"{said}: with --batch 1, as on a device that gets one at a time, it answers otherwise"]


def doubts_of(predictions: NDArray[Any], classes: Sequence[str]) -> list[str]:
    """What the guesses alone make doubtful: one guess for all, classes without images, another order of the outputs.

    predictions: (n, 2), guess and label of each image.
    """
    n, found = len(predictions), list[str]()
    guessed, labelled = (np.unique(column).astype(int).tolist() for column in predictions.T)
    if len(guessed) == 1 < len(labelled):
        found.append(f"all {n} images are called {classes[guessed[0]]}: it is damaged, wrongly fed or not trained")
    absent = [name for place, name in enumerate(classes) if place not in labelled]
    if absent and n >= _IMAGES_A_CLASS * len(classes):
        found.append(f"none of the {n} images is of {few_of(absent, 3)}")
    return found + doubts_of_order(predictions, classes)


def doubts_of_order(predictions: NDArray[Any], classes: Sequence[str]) -> list[str]:
    """A warning if another order of the outputs than in training is surely meant; none where images are too few.

    Of the guesses each class is given an output of its own, the most frequent pair of class and output first. That
    order is believed if it gets many more images right, is well above what one guess for all would get (images of one
    class tell nothing), and is no chance: of two orders that are equally good, m images that only one gets right differ
    by t or more with probability exp(-t^2 / 2m) at most (Hoeffding 1963), and K classes have fewer than K^K orders.

    predictions: (n, 2), guess and label of each image.
    """
    n, k = len(predictions), len(classes)
    if not 1 < k <= _MOST_CLASSES:
        return []
    guesses = np.zeros((k, k), np.int64)
    np.add.at(guesses, (predictions[:, 1].astype(int), predictions[:, 0].astype(int)), 1)
    meant = _assigned(guesses)
    now, then = guesses.diagonal(), np.where(meant >= 0, guesses[np.arange(k), meant], 0)
    gain, differ = int((then - now).sum()), int((then + now)[meant != np.arange(k)].sum())
    one_guess = guesses.sum(1).max()
    is_good = then.sum() - one_guess >= max(_LEAST_SKILL, _SKILL_OF_FEW / k) * (n - one_guess) > 0
    if not is_good or gain < _LEAST_GAIN * n or gain**2 < 2 * differ * (k * math.log(k) + _LEAST_NATS):
        return []
    better = np.argsort(now - then, kind="stable")[: (then > now).sum()].tolist()
    swapped = few_of([f"{classes[int(meant[one])]} for {classes[one]}" for one in better], 3)
    shares = (f"{100 * one.sum() / n:.2f} %" for one in (now, then))
    said = f"{{}} are right, {{}} {OTHER_ORDER}".format(*shares)
    return [f"{said} ({swapped}): name them in the order of the outputs, import --labels FILE"]


def _assigned(guesses: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of each class the output that is its own, -1 where none that is left was guessed."""
    cells = np.flatnonzero(guesses)
    found, taken = dict[int, int](), set[int]()
    for cell in cells[np.argsort(-guesses.flat[cells], kind="stable")].tolist():
        label, guess = divmod(cell, len(guesses))
        if label not in found and guess not in taken:
            found[label] = guess
            taken.add(guess)
    return np.array([found.get(label, -1) for label in range(len(guesses))])
