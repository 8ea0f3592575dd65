"""Accuracy of an engine on its board, and how far it is from what ONNX Runtime makes of the same file here.

Without classes or without labels it is the closeness to another network, which runs here.

A split's images go there bit for bit as ONNX Runtime is fed them, in files that `agent.images` describes. A pixel's
input is tables[channel][byte]: every preprocessing here works on each byte alone, so bytes travel, not floats. Labels
never leave the laptop.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeres.bench.board_answers import EvalDone
from edgeres.bench.board_session import Session
from edgeres.core.artifacts import Model, OnnxModel
from edgeres.core.distances import split as columns_of
from edgeres.core.errors import DeviceError
from edgeres.core.metrics import Closeness
from edgeres.core.progress import bar
from edgeres.core.spec import ModelSpec, Preprocess
from edgeres.data import Dataset, Split, dataset_for
from edgeres.data.images import Pixels, normalised
from edgeres.data.pixels import in_threads
from edgeres.evaluate.agreement import Comparison, Similarity
from edgeres.evaluate.closeness import Nearness
from edgeres.evaluate.stage import Guessed, hits, judge_of
from edgeres.runtime import runner_for
from edgeres.runtime.runner import Logits, check_outputs, infer_all

PART_BYTES = 16 << 20  # kept in memory; a lost connection repeats at most the packets under way
_BYTES = 256
_HERE_BATCH = 250
_TOP = 5
_FLOAT_BYTES = 4


@dataclass
class Images:
    """The val images of one data set for one session: sent once for all models that take the same input."""

    data: str
    images: int | None = None
    download: bool = False
    reference: Path | None = None
    whole: Model | None = None
    _whole: dict[str, Dataset] = field(default_factory=dict)
    _sent: dict[str, str] = field(default_factory=dict)

    def dataset(self, spec: ModelSpec) -> Dataset:
        """The data set, cut to `images` of val if that is given; raises InputError if it does not suit `spec`."""
        whole = self._whole_for(spec)
        return replace(whole, val=whole.val.at_most(self.images, 0))

    def remarks(self, spec: ModelSpec) -> tuple[list[str], list[str]]:
        """(notes, warnings) about how much of val is taken."""
        whole = len(self._whole_for(spec).val)
        if self.images is None or self.images == whole:
            return [], []
        if self.images < whole:
            return [], [f"evaluated on {self.images} of the {whole} val images only"]
        return [f"--images {self.images}: val has {whole} images, all of them were taken"], []

    def _whole_for(self, spec: ModelSpec) -> Dataset:
        labels = spec.model_dump_json(include={"classes", "num_classes", "task"})
        if labels not in self._whole:
            self._whole[labels] = dataset_for(spec, self.data, download=self.download)
        return self._whole[labels]

    def judge_of(self, model: Model) -> Model | None:
        """What `model` is held against where no label can tell what is right; raises InputError as `eval` does."""
        return judge_of(model, self._whole_for(model.spec), self.reference, self.whole)

    def on(self, session: Session, split: Split, spec: ModelSpec) -> str:
        """Their folder on the board, as `spec` takes them."""
        key = spec.model_dump_json(include={"input_shape", "preprocess", "classes"})
        if key not in self._sent:
            self._sent[key] = send_images(session, split, spec, f"images-{len(self._sent)}")
        return self._sent[key]


def logits_of(
    session: Session, engine: str, batch: int, split: Split, folder: str, *, timeout_s: int
) -> tuple[Logits, EvalDone]:
    """What the engine makes of the images in `folder` on the board: float32 (n, K), in the split's order.

    Raises DeviceError if they cannot be used.
    """
    words = ["--engine", engine, "--images", folder, "--batch", str(batch), "--logits", f"{session.folder}/logits.bin"]
    words += ["--timeout-s", str(timeout_s)]
    answer = session.agent(EvalDone, *words, takes_s=timeout_s)
    if answer.n != len(split):
        raise DeviceError(f"{session.board.name}: logits of {answer.n} images came back, {len(split)} were sent")
    size = _FLOAT_BYTES * answer.n * answer.classes
    content = session.read("logits.bin", answer.logits_sha256, size)
    logits = np.frombuffer(content, "<f4").reshape(answer.n, answer.classes)
    if not np.isfinite(logits).all():
        raise DeviceError(f"{session.board.name}: the engine gives logits that are not finite")
    return logits.astype(np.float32, copy=False), answer


def in_order(outputs: Logits, answer: EvalDone, parts: tuple[tuple[str, int], ...]) -> Logits:
    """Several `outputs` in the order of `parts`, which TensorRT need not keep."""
    if not parts or answer.outputs == parts:
        return outputs
    if sorted(answer.outputs) != sorted(parts):
        raise DeviceError(f"the engine on the board gives {answer.outputs}, not {parts}")
    found = columns_of(outputs, [size for _, size in answer.outputs])
    return np.concatenate([found[answer.outputs.index(part)] for part in parts], 1)


def guessed_from(logits: Logits, dataset: Dataset, runtime: str) -> Guessed:
    """What was guessed on the board."""
    check_outputs(logits, len(dataset.classes), runtime)
    labels = dataset.val.labels
    predictions = np.stack([logits.argmax(1), labels], axis=1).astype(np.uint16)
    return Guessed(predictions, hits(logits, labels, _TOP), runtime)


def closeness_from(outputs: Logits, model: Model, reference: Model, *, dataset: Dataset, runtime: str) -> Closeness:
    """How near `outputs`, which the board makes of `model`, are to what `reference` gives here."""
    check_outputs(outputs, model.spec.num_classes, runtime, model.spec.task)
    nearness, done = Nearness(model.spec.task, model.spec.parts), 0
    with runner_for(reference) as runner:
        for x, _ in dataset.val.shown(model.spec, _HERE_BATCH, f"ONNX Runtime {reference.path.name}"):
            nearness.add(outputs[done : done + len(x)], infer_all(runner, x))
            done += len(x)
    whose = {"artifact": model.sha256, "reference": reference.sha256}
    return nearness.closeness(n=done, dataset=dataset.name, split="val", runtime=runtime, **whose)


def agreement_with(model: OnnxModel, split: Split, logits: Logits) -> dict[str, Any]:
    """The board's `logits` against ONNX Runtime's, pair by pair as the file says.

    `top1`: share of images with the same first guess, None without classes; `sqnr_db`: of the logits, None with
    `equal_bits`, where they are equal bit for bit. `reference_correct_top1`: None without labels.
    """
    counted, similar, done = Comparison(), Similarity(), 0
    with runner_for(model) as runner:
        for x, y in split.shown(model.spec, _HERE_BATCH, f"ONNX Runtime {model.path.name}"):
            ours, theirs = infer_all(runner, x).reshape(len(x), -1), logits[done : done + len(x)]
            similar.add(ours, theirs)
            done += len(x)
            if model.spec.task == "classes":
                counted.count(ours.argmax(1), theirs.argmax(1), y)
        name = runner.name
    return {
        "top1": counted.same / counted.n if counted.n else None,
        "same_top1": counted.same if counted.n else None,
        "sqnr_db": similar.sqnr_db,
        "equal_bits": similar.sqnr_db is None,
        "n": done,
        "reference": name,
        "reference_correct_top1": counted.right_a if split.is_labelled else None,
    }


def tables_of(preprocess: Preprocess, channels: int) -> NDArray[np.float32]:
    """float32 (C, 256): what each byte of each channel becomes."""
    every = np.tile(np.arange(_BYTES, dtype=np.uint8)[:, None, None, None], (1, 1, 1, channels))
    return np.ascontiguousarray(normalised(every, preprocess)[:, :, 0, 0].T)


def bytes_needed(split: Split, spec: ModelSpec) -> int:
    """Size of all parts on the board's disk."""
    return len(split) * math.prod(spec.input_shape)


def send_images(session: Session, split: Split, spec: ModelSpec, name: str) -> str:
    """Writes the images into the folder `name` of the run; returns its path on the board."""
    session.need(bytes_needed(split, spec), f"{len(split)} images")
    session.link.run(["mkdir", "-p", "--", f"{session.folder}/{name}"])
    parts: list[dict[str, Any]] = []
    with bar(f"{session.board.name}: sending {len(split)} images") as shown:
        shown.expect(bytes_needed(split, spec))
        for pixels in parts_of(split, spec):
            file = f"part-{len(parts):05d}.bin"
            session.write(pixels.tobytes(), f"{name}/{file}", shown.advance)
            parts.append({"name": file, "n": len(pixels)})
    index = {
        "shape": list(spec.input_shape),
        "n": len(split),
        "dtype": "uint8",
        "tables": tables_of(spec.preprocess, spec.input_shape[0]).tolist(),
        "parts": parts,
    }
    session.write(json.dumps(index).encode(), f"{name}/index.json")
    return f"{session.folder}/{name}"


def parts_of(split: Split, spec: ModelSpec, part_bytes: int = PART_BYTES) -> Iterator[Pixels]:
    """The images in order, resized and cropped for `spec`: uint8 (n, C, H, W), about `part_bytes` at a time."""
    many = max(1, part_bytes // math.prod(spec.input_shape))
    whole = split.inputs(spec)
    images = in_threads(partial(split.fitted, spec=spec), range(len(split))) if whole is None else iter(whole)
    for start in range(0, len(split), many):
        pixels = np.stack([next(images) for _ in range(min(many, len(split) - start))])
        yield np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
