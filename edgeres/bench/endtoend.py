"""From an image file to its class, one image after the other: what a user waits for, and where the time goes.

The parts of a call:

    decode        the file, from the page cache after its first turn, to pixels (Pillow, one thread)
    preprocess    resize, crop, (x / 255 - mean) / std, as the model's spec says it
    inference     copy in, run, copy out
    argmax        logits to a class number
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeres.core.metrics import Latency
from edgeres.core.spec import ModelSpec
from edgeres.core.statistics import percentile_interval, rate_interval
from edgeres.runtime.runner import Runner

PARTS = ("decode", "preprocess", "inference", "argmax")
_MOST_FILES = 256  # spread over the split; more would only lengthen the first turn's reads

Parts = tuple[float, ...]


class Chain:
    """Around a Runner: `step` takes the next of `files` all the way; `take` tells how long each part took."""

    def __init__(
        self, runner: Runner, spec: ModelSpec, files: Sequence[Path], clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.name = runner.name
        self._runner, self._spec, self._files, self._clock = runner, spec, tuple(files), clock
        self._next = 0
        self._parts_ms: list[Parts] = []

    def step(self) -> None:
        """Decodes, preprocesses, infers and takes the largest logit; raises InputError for a file that is no image."""
        from edgeres.data.images import fitted, image_from, normalised

        path = self._files[self._next % len(self._files)]
        self._next += 1
        marks = [self._clock()]
        image = image_from(path)
        marks.append(self._clock())
        images = normalised(fitted(image, self._spec, str(path))[None], self._spec.preprocess)
        marks.append(self._clock())
        logits = self._runner.infer(images)
        marks.append(self._clock())
        int(logits[0].argmax())
        marks.append(self._clock())
        self._parts_ms.append(tuple((late - early) * 1000 for early, late in itertools.pairwise(marks)))

    def synchronize(self) -> None:
        """A step ends with the class known."""

    def take(self, calls: int) -> list[Parts]:
        """Milliseconds of each of PARTS in the last `calls` steps; earlier ones are forgotten."""
        taken = self._parts_ms[-calls:]
        self._parts_ms.clear()
        return taken


def files_of(data: str) -> tuple[Path, ...] | str:
    """Image files spread over the validation split of the data set called `data`, or why there are none.

    Raises InputError if the data set is unknown or cannot be read.
    """
    from edgeres.data import dataset_from
    from edgeres.data.pixels import FileSource

    split = dataset_from(data).val
    if not isinstance(split.source, FileSource):
        return f"{data} holds arrays, not image files; name a folder of images: --data folder:PATH"
    rows = split.rows[np.unique(np.linspace(0, len(split) - 1, _MOST_FILES).astype(int))]
    return tuple(Path(split.source.label(int(row))) for row in rows)


def figures_of(latency: Latency, parts_ms: Sequence[Parts]) -> dict[str, Any]:
    """Median and rate with intervals, each part's median in milliseconds and its share of the sum of these."""
    medians = np.median(np.asarray(parts_ms), axis=0)
    return {
        "p50_ms": percentile_interval(latency, 50).model_dump(),
        "images_per_s": rate_interval(latency).model_dump(),
        "parts_ms": dict(zip(PARTS, medians.tolist(), strict=True)),
        "shares": dict(zip(PARTS, (medians / medians.sum()).tolist(), strict=True)),
        "samples": len(latency.samples_ms),
    }
