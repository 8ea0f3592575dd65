"""A labelled part of a data set, and how it is cut: always by class, always by a seed."""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeres.core import processes
from edgeres.core.errors import InputError
from edgeres.core.files import sha256_of
from edgeres.core.progress import track
from edgeres.core.spec import ModelSpec
from edgeres.data.images import Images, Pixels, fitted, normalised, picture_from
from edgeres.data.pixels import MEMORY_LIMIT_BYTES, ArraySource, FileSource, Rows, Source, in_threads

Labels = NDArray[np.int64]
VAL_FRACTION = 0.2
SplitName = Literal["train", "val"]
UNLABELLED = -1  # the label of every image of a data set that has no classes
_log = logging.getLogger(__name__)
OWN_GUESSES = "no labels: an answer counts as right where it is the whole network's own"


@dataclass(frozen=True, eq=False)
class Split:
    """Images with labels; `rows` are their places in `source`, `ids` their names, unique in the data set."""

    name: SplitName
    source: Source
    rows: Rows
    labels: Labels
    ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def ids_sha256(self) -> str:
        """Hash of the ids, joined by newlines."""
        return hashlib.sha256("\n".join(self.ids).encode()).hexdigest()

    def subset(self, indices: ArrayLike) -> Split:
        """The images at `indices`, in that order."""
        chosen = np.asarray(indices, np.int64)
        ids = tuple(self.ids[i] for i in chosen)
        return replace(self, rows=self.rows[chosen], labels=self.labels[chosen], ids=ids)

    @property
    def is_labelled(self) -> bool:
        """Whether its images have labels; all of them have, or none."""
        return bool((self.labels != UNLABELLED).any())

    def check_labelled(self, what: str) -> None:
        """Raises InputError if there are no labels, which `what` needs."""
        if not self.is_labelled:
            raise InputError(
                f"the {self.name} images have no labels, which {what} needs; folder:PATH has them, csv:FILE and"
                " npz:FILE may"
            )

    def named(self, name: SplitName) -> Split:
        """The same images as another split."""
        return replace(self, name=name)

    def sample(self, n: int, seed: int) -> Split:
        """`n` different images in random order, each class in its share; InputError if there are fewer."""
        if not len(self):
            raise InputError(f"there are no {self.name} images, only some to judge on; add {self.name}/")
        if not 0 < n <= len(self):
            raise InputError(f"cannot take {n} images from {self.name}, which has {len(self)}")
        return self.subset(_chosen(self.labels, n, seed))

    def at_most(self, n: int | None, seed: int) -> Split:
        """`sample`, or all of it in order where it has no more, or none were asked for."""
        return self if n is None or n >= len(self) else self.sample(n, seed)

    def halves(self, fraction: float, seed: int) -> tuple[Split, Split]:
        """(the rest, `fraction` of the images): disjoint, each class in its share, order kept.

        Raises InputError if one part would be empty.
        """
        n = round(fraction * len(self))
        if not 0 < n < len(self):
            raise InputError(f"cannot set aside {fraction:g} of the {len(self)} images of {self.name}")
        held_out = np.zeros(len(self), bool)
        held_out[_chosen(self.labels, n, seed)] = True
        return self.subset(np.flatnonzero(~held_out)), self.subset(np.flatnonzero(held_out))

    def batches(self, spec: ModelSpec, batch: int) -> Iterator[tuple[Images, Labels]]:
        """Model inputs float32 (N, C, H, W) and labels int64 (N,), in order; the last may be short."""
        pixels = self.inputs(spec)
        if pixels is None:
            yield from self.streamed(spec, batch)
            return
        for start in range(0, len(self), batch):
            part = slice(start, start + batch)
            yield normalised(pixels[part], spec.preprocess), self.labels[part]

    def shown(self, spec: ModelSpec, batch: int, description: str) -> Iterator[tuple[Images, Labels]]:
        """`batches` for a network that judges them, fewer at a time where they are large, with a progress bar."""
        size = spec.at_once(batch)
        return track(self.batches(spec, size), description, -(-len(self) // size))

    def own(self, batch: int) -> Split:
        """This process's batches."""
        numbers = {*processes.own(range(-(-len(self) // batch)))}
        return self.subset([place for place in range(len(self)) if place // batch in numbers])

    def inputs(self, spec: ModelSpec) -> Pixels | None:
        """All images resized and cropped for `spec`, uint8 (n, H, W, C); None if too large for memory."""
        channels, height, width = spec.input_shape
        if len(self) * channels * height * width > MEMORY_LIMIT_BYTES:
            return None
        pixels = self.source.pixels(self.rows)
        if pixels is None:
            return None
        if spec.preprocess.exif:  # which way up stands in the files alone
            return np.stack(list(in_threads(partial(self.fitted, spec=spec), range(len(self)))))
        if pixels.shape[1:] == (height, width, channels) and spec.preprocess.resize is None:
            return pixels
        labels = [self.source.label(int(row)) for row in self.rows]
        return np.stack([fitted(picture_from(p), spec, at) for p, at in zip(pixels, labels, strict=True)])

    def fitted(self, index: int, spec: ModelSpec) -> Pixels:
        """One image resized and cropped for `spec`: uint8 (H, W, C)."""
        row = int(self.rows[index])
        return fitted(self.source.image(row), spec, self.source.label(row))

    def streamed(self, spec: ModelSpec, batch: int) -> Iterator[tuple[Images, Labels]]:
        """`batches` that keep no decoded image, for what is read once."""
        decoded = in_threads(partial(self.fitted, spec=spec), range(len(self)))
        for start in range(0, len(self), batch):
            labels = self.labels[start : start + batch]
            pixels = np.stack([next(decoded) for _ in labels])
            yield normalised(pixels, spec.preprocess), labels


def split_from_arrays(name: SplitName, images: Pixels, labels: ArrayLike, ids: Sequence[str] = ()) -> Split:
    """A split of uint8 images (N, H, W, C) or (N, H, W) and class numbers (N,).

    Raises InputError for images of another type, or if the numbers of images, labels and ids differ.
    """
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in {1, 3}:
        raise InputError(f"{name} images must be uint8 (N, H, W, 1 or 3), got {images.dtype} {images.shape}")
    source = ArraySource(images, ids[0].rpartition("/")[0] if ids else name)  # val may be a part of train
    return _split(name, source, labels, ids or [f"{name}/{i}" for i in range(len(images))])


def drawn_apart(whole: Split, classes: Sequence[str], seed: int, where: str) -> tuple[Split, Split]:
    """(train, val): about a fifth of each class is val, by the images' names and the seed alone.

    So images added later never move one that a model has been trained on, but where a class has so few that each split
    must get one. Raises InputError for a class of one image; `where` it lies.
    """
    held_out = np.zeros(len(whole), bool)
    for number in np.unique(whole.labels):
        places = np.flatnonzero(whole.labels == number)
        if len(places) < 2:
            what = f"class {classes[number]!r} of {where}" if classes else where
            raise InputError(f"{what} has one image; add some, or make train/ and val/")
        draws = np.asarray([_draw(whole.ids[place], seed) for place in places])
        chosen = draws < VAL_FRACTION
        chosen[draws.argmin()], chosen[draws.argmax()] = True, False
        held_out[places[chosen]] = True
    say_once(f"{where} names no splits: {held_out.sum():,} of its {len(whole):,} images are val, drawn by their names")
    return whole.subset(np.flatnonzero(~held_out)), whole.subset(np.flatnonzero(held_out)).named("val")


@cache
def say_once(line: str) -> None:
    """What every look at the data set would say again."""
    _log.info("%s", line)


def _draw(image_id: str, seed: int) -> float:
    """A number in [0, 1) that depends on the image's path below the root and the seed only."""
    path = image_id.partition("/")[2]
    return int.from_bytes(hashlib.sha256(f"{seed}/{path}".encode()).digest()[:7], "big") / 2**56


def split_from_files(name: SplitName, paths: Sequence[Path], labels: ArrayLike, ids: Sequence[str]) -> Split:
    """A split of image files; they are opened when their pixels are first needed."""
    return _split(name, FileSource(tuple(paths)), labels, ids)


def _split(name: SplitName, source: Source, labels: ArrayLike, ids: Sequence[str]) -> Split:
    numbers = np.asarray(labels, np.int64)
    if not len(source) == len(numbers) == len(ids):
        raise InputError(f"{name} has {len(source)} images, {len(numbers)} labels and {len(ids)} ids")
    return Split(name, source, np.arange(len(source)), numbers, tuple(ids))


def _chosen(labels: Labels, n: int, seed: int) -> Rows:
    """`n` places, shares by the largest remainder."""
    generator = np.random.default_rng(seed)
    values, counts = np.unique(labels, return_counts=True)
    quotas = counts * n / len(labels)
    shares = np.floor(quotas).astype(int)
    shares[np.argsort(shares - quotas, kind="stable")[: n - shares.sum()]] += 1
    parts = [
        generator.permutation(np.flatnonzero(labels == value))[:share]
        for value, share in zip(values, shares, strict=True)
    ]
    return generator.permutation(np.concatenate(parts))


def shared_images(chosen: Split, other: Split) -> dict[str, str]:
    """Ids of `chosen` whose very image is in `other` too -> the id there; only files of equal size are read."""
    if isinstance(chosen.source, FileSource) and isinstance(other.source, FileSource):
        return _shared_files(chosen, other)
    known = dict(zip(_pixel_hashes(other), other.ids, strict=False))
    return {name: known[one] for name, one in zip(chosen.ids, _pixel_hashes(chosen), strict=False) if one in known}


def _shared_files(chosen: Split, other: Split) -> dict[str, str]:
    mine, others = ([Path(split.source.label(int(row))) for row in split.rows] for split in (chosen, other))
    by_size: dict[int, list[tuple[str, Path]]] = defaultdict(list)
    for name, path in zip(other.ids, others, strict=True):
        by_size[path.stat().st_size].append((name, path))
    hashes = cache(lambda size: {sha256_of(path): name for name, path in by_size.get(size, ())})
    found = [(name, path, hashes(path.stat().st_size)) for name, path in zip(chosen.ids, mine, strict=True)]
    return {name: known[one] for name, path, known in found if known and (one := sha256_of(path)) in known}


def _pixel_hashes(split: Split) -> list[bytes]:
    """One hash an image; none where the source holds files of different sizes."""
    pixels = split.source.pixels(split.rows)
    return [] if pixels is None else [hashlib.sha256(image.tobytes()).digest() for image in pixels]
