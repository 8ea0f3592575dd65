"""Top-1 and top-5 of any model that runs here, with the prediction for every image kept for paired comparisons."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeres.core.artifacts import Model
from edgeres.core.errors import InputError, StageError
from edgeres.core.files import written
from edgeres.core.metrics import Accuracy
from edgeres.core.progress import track
from edgeres.data import Dataset
from edgeres.runtime import runner_for
from edgeres.runtime.runner import Logits, RunnerOptions, infer_all


def accuracy_of(
    model: Model,
    dataset: Dataset,
    *,
    split: str = "val",
    batch: int = 250,
    threads: int | None = None,
    out: Path | None = None,
) -> Accuracy:
    """Accuracy of `model` on `split`; Q/DQ nodes are evaluated literally, ort-cpu files fused.

    With `out` the predictions are written there: .npy, uint16 (n, 2), columns prediction and label. Raises InputError
    if the outputs are no scores of the classes, StageError if one is not finite.
    """
    images = dataset.train if split == "train" else dataset.val
    guesses, labels, in_top5 = [], [], 0
    with runner_for(model, RunnerOptions(threads=threads)) as runner:
        total = -(-len(images) // batch)
        for x, y in track(images.batches(model.spec, batch), f"eval {model.path.name}", total):
            logits = infer_all(runner, x)
            check_scores(logits, model.spec.num_classes, f"eval: {model.path}")
            guesses.append(logits.argmax(1))
            labels.append(y)
            in_top5 += hits(logits, y, 5)
        name = runner.name
    predictions = np.stack([np.concatenate(guesses), np.concatenate(labels)], axis=1).astype(np.uint16)
    if out is not None:
        with written(out) as temporary, temporary.open("wb") as file:
            np.save(file, predictions)
    return Accuracy(
        correct_top1=int((predictions[:, 0] == predictions[:, 1]).sum()),
        correct_top5=in_top5,
        n=len(predictions),
        dataset=dataset.name,
        split=split,
        runtime=name,
        artifact=model.sha256,
        predictions=out.name if out else None,
    )


def check_scores(logits: Logits, classes: int, what: str) -> None:
    """Raises InputError unless `logits` are one score a class (n, K), StageError if one is not finite."""
    if logits.shape[1:] != (classes,):
        shape = " x ".join(map(str, logits.shape[1:]))
        raise InputError(
            f"{what} gives {shape or 'one number'} for an image, not {classes} scores of classes: an embedding or a map"
            " cannot be right or wrong by the data's classes; name the file that ends with the classifier"
        )
    if not np.isfinite(logits).all():
        raise StageError(f"{what} gives logits that are not finite")


def hits(logits: Logits, labels: NDArray[np.int64], k: int) -> int:
    """How many rows have their label among the k largest logits (all of them if there are at most k classes)."""
    if logits.shape[1] <= k:
        return len(labels)
    best = np.argpartition(-logits, k - 1, axis=1)[:, :k]
    return int((best == labels[:, None]).any(1).sum())
