"""Accuracy of an engine on its board, and how far it is from what ONNX Runtime makes of the same file here."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeres.bench.board_images import send_images
from edgeres.bench.board_session import Session
from edgeres.core.artifacts import OnnxModel
from edgeres.core.errors import DeviceError
from edgeres.core.files import written
from edgeres.core.metrics import Accuracy
from edgeres.core.progress import track
from edgeres.core.spec import ModelSpec
from edgeres.data import Dataset, Split, dataset_for
from edgeres.evaluate.accuracy import check_scores, hits
from edgeres.evaluate.agreement import Similarity
from edgeres.runtime import runner_for
from edgeres.runtime.runner import Logits, infer_all

_HERE_BATCH = 250
_TOP = 5


@dataclass
class Images:
    """The val images of one data set for one session: sent once for all models that take the same input."""

    data: str
    images: int | None = None
    download: bool = False
    _datasets: dict[str, Dataset] = field(default_factory=dict)
    _whole: dict[str, int] = field(default_factory=dict)
    _sent: dict[str, str] = field(default_factory=dict)

    def dataset(self, spec: ModelSpec) -> Dataset:
        """The data set, cut to `images` of val if that is given; raises InputError if it does not suit `spec`."""
        key = _labels_of(spec)
        if key not in self._datasets:
            whole = dataset_for(spec, self.data, download=self.download)
            is_whole = self.images is None or self.images >= len(whole.val)
            self._whole[key] = len(whole.val)
            self._datasets[key] = whole if is_whole else replace(whole, val=whole.val.sample(self.images or 0, 0))
        return self._datasets[key]

    def remarks(self, spec: ModelSpec) -> tuple[list[str], list[str]]:
        """(notes, warnings) about how much of val is taken."""
        taken = len(self.dataset(spec).val)
        whole = self._whole[_labels_of(spec)]
        if taken < whole:
            return [], [f"evaluated on {taken} of the {whole} val images only"]
        too_many = self.images is not None and self.images > whole
        return ([f"--images {self.images}: val has {whole} images, all of them were taken"] if too_many else []), []

    def on(self, session: Session, split: Split, spec: ModelSpec) -> str:
        """Their folder on the board, as `spec` takes them."""
        key = spec.model_dump_json(include={"input_shape", "preprocess", "classes"})
        if key not in self._sent:
            self._sent[key] = send_images(session, split, spec, f"images-{len(self._sent)}")
        return self._sent[key]


def _labels_of(spec: ModelSpec) -> str:
    """What of a spec decides the data set's labels."""
    return spec.model_dump_json(include={"classes", "num_classes"})


@dataclass(frozen=True)
class Judged:
    """What the board made of the images: logits float32 (n, K), in the order of `labels`."""

    logits: Logits
    labels: NDArray[np.int64]
    answer: dict[str, Any]


def judged(session: Session, engine: str, batch: int, split: Split, folder: str, *, timeout_s: int) -> Judged:
    """Runs the engine over the images in `folder` on the board; raises DeviceError if its logits cannot be used."""
    words = ["--engine", engine, "--images", folder, "--batch", str(batch), "--logits", f"{session.folder}/logits.bin"]
    words += ["--timeout-s", str(timeout_s)]
    answer = session.agent("eval", *words)
    content = session.read("logits.bin", answer["logits_sha256"])
    logits = np.frombuffer(content, "<f4").reshape(answer["n"], answer["classes"])
    if len(logits) != len(split):
        raise DeviceError(f"{session.board.name}: logits of {len(logits)} images came back, {len(split)} were sent")
    if not np.isfinite(logits).all():
        raise DeviceError(f"{session.board.name}: the engine gives logits that are not finite")
    return Judged(logits.astype(np.float32), split.labels, answer)


def accuracy_from(found: Judged, dataset: Dataset, *, runtime: str, artifact: str, out: Path | None) -> Accuracy:
    """Right answers on the board; with `out` the predictions are written there as `edgeres eval` does."""
    check_scores(found.logits, len(dataset.classes), runtime)
    guesses = found.logits.argmax(1)
    if out is not None:
        with written(out) as temporary, temporary.open("wb") as file:
            np.save(file, np.stack([guesses, found.labels], axis=1).astype(np.uint16))
    return Accuracy(
        correct_top1=int((guesses == found.labels).sum()),
        correct_top5=hits(found.logits, found.labels, _TOP),
        n=len(guesses),
        dataset=dataset.name,
        split="val",
        runtime=runtime,
        artifact=artifact,
        predictions=out.name if out else None,
    )


def agreement_with(model: OnnxModel, split: Split, found: Judged) -> dict[str, Any]:
    """The board against ONNX Runtime, pair by pair as the file says.

    `top1`: share of images with the same first guess; `sqnr_db`: of the logits, None with `equal_bits`, where they are
    equal bit for bit.
    """
    here, same, correct, similar = 0, 0, 0, Similarity()
    with runner_for(model) as runner:
        total = -(-len(split) // _HERE_BATCH)
        for x, y in track(split.batches(model.spec, _HERE_BATCH), f"ONNX Runtime {model.path.name}", total):
            ours, theirs = infer_all(runner, x), found.logits[here : here + len(y)]
            similar.add(ours, theirs)
            same += int((ours.argmax(1) == theirs.argmax(1)).sum())
            correct += int((ours.argmax(1) == y).sum())
            here += len(y)
        name = runner.name
    return {
        "top1": same / here,
        "same_top1": same,
        "sqnr_db": similar.sqnr_db,
        "equal_bits": similar.sqnr_db is None,
        "n": here,
        "reference": name,
        "reference_correct_top1": correct,
    }
