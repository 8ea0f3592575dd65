"""Calibration images: streamed into the network's input, and checked not to stand in the other split."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from edgeres.core.files import sha256_of
from edgeres.core.spec import ModelSpec
from edgeres.data import Split
from edgeres.data.images import Images, normalised
from edgeres.data.sources import FileSource, in_threads


def streamed(split: Split, spec: ModelSpec, batch: int) -> Iterator[Images]:
    """Inputs float32 (N, C, H, W) in order; unlike `Split.batches` keeps no decoded image, as each is read once."""
    decoded = in_threads(partial(split.fitted, spec=spec), range(len(split)))
    for start in range(0, len(split), batch):
        size = min(batch, len(split) - start)
        yield normalised(np.stack([next(decoded) for _ in range(size)]), spec.preprocess)


def shared_with(chosen: Split, other: Split) -> tuple[str, ...]:
    """Ids of `chosen` whose very image is in `other` too; of files only those of equal size are read."""
    if isinstance(chosen.source, FileSource) and isinstance(other.source, FileSource):
        return _shared_files(chosen, other)
    known = set(_pixel_hashes(other))
    return tuple(name for name, one in zip(chosen.ids, _pixel_hashes(chosen), strict=False) if one in known)


def _shared_files(chosen: Split, other: Split) -> tuple[str, ...]:
    by_size: dict[int, list[Path]] = defaultdict(list)
    for path in _paths(other):
        by_size[path.stat().st_size].append(path)
    hashes: dict[int, set[str]] = {}
    shared = []
    for name, path in zip(chosen.ids, _paths(chosen), strict=True):
        size = path.stat().st_size
        if size not in hashes:
            hashes[size] = {sha256_of(one) for one in by_size[size]}
        if hashes[size] and sha256_of(path) in hashes[size]:
            shared.append(name)
    return tuple(shared)


def _paths(split: Split) -> list[Path]:
    return [Path(split.source.label(int(row))) for row in split.rows]


def _pixel_hashes(split: Split) -> list[bytes]:
    """One hash an image; none where the source holds files of different sizes."""
    pixels = split.source.pixels(split.rows)
    return [] if pixels is None else [hashlib.sha256(image.tobytes()).digest() for image in pixels]
