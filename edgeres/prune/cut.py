"""A network without some of its modules as a file, trained back if asked for, and what that loses."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgeres.core.artifacts import Checkpoint
from edgeres.core.errors import InputError
from edgeres.core.metrics import paired_difference
from edgeres.core.records.sweep import Judged
from edgeres.core.runs import STARTED_NAME, mark_started
from edgeres.data import Dataset
from edgeres.evaluate.closeness import lost_of, nearness_of
from edgeres.evaluate.stage import accuracy_of
from edgeres.models.weights import checkpoint_without, save_checkpoint
from edgeres.prune.config import ChoiceConfig
from edgeres.prune.recover.stage import recovered

WHOLE_NAME = "whole.npy"  # what the first network judged had guessed, for the pairing


@dataclass(frozen=True)
class Cut:
    """`output` is what the stage hands on; the rest is what there is to say of how it was made."""

    output: Checkpoint
    results: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def cut_and_recovered(source: Checkpoint, dropped: tuple[str, ...], config: ChoiceConfig, path: Path) -> Cut:
    """`source` without `dropped`, and with `config.recover` the network trained back by its parent, at `path`.

    Interrupted, the same call goes on from what lies in the folder beside `path`, which is removed at the end.
    """
    if not config.recover:
        return Cut(checkpoint_without(source, dropped, path))
    folder = path.with_name(f".{path.stem}-recover")
    mark_started(folder, "recover", " ".join((source.sha256, *dropped)))
    bare = checkpoint_without(source, dropped, folder / "dropped.safetensors")
    try:
        done = recovered(bare, source, config.recovery(len(dropped)), folder)
    except InputError:
        nothing_to_go_on_from = {bare.path.name, STARTED_NAME}
        if {one.name for one in folder.iterdir()} <= nothing_to_go_on_from:
            shutil.rmtree(folder)
        raise
    save_checkpoint(done.weights, bare.spec, path, stage="prune", parent=source.sha256)
    shutil.rmtree(folder)
    said = (
        f"trained back by {', '.join(config.recover)}: {done.results['images']} train images, {done.results['steps']}"
        f" steps, {done.results['duration_s']:.0f} s"
    )
    return Cut(Checkpoint(path), {"recovery": done.results}, (said, *done.notes), tuple(done.warnings))


def judged(
    checkpoint: Checkpoint, source: Checkpoint, dataset: Dataset, out_dir: Path, split: Literal["train", "val"] = "val"
) -> Judged:
    """Accuracy on the split, and its change against `source`, whose guesses are put into `out_dir` the first time.

    Without classes, or without labels, the closeness to `source`.
    """
    images = dataset.val if split == "val" else dataset.train
    if source.spec.task != "classes" or not images.is_labelled:
        near, half_width = nearness_of(checkpoint, source, dataset, images)
        change = 0.0 - 100 * lost_of(near)
        return Judged(accuracy=None, closeness=near, change_points=change, half_width_points=100 * half_width)
    whole, mine = out_dir / WHOLE_NAME, out_dir / "last.npy"
    target = mine if whole.is_file() else whole
    accuracy = accuracy_of(checkpoint, dataset, split=split, out=target)
    right = [pairs[:, 0] == pairs[:, 1] for pairs in (np.load(whole), np.load(target))]
    mine.unlink(missing_ok=True)
    change, half = paired_difference(*right)
    return Judged(
        accuracy=accuracy.model_copy(update={"predictions": None}),
        change_points=100 * change,
        half_width_points=100 * half,
    )
