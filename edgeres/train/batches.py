"""Training batches by number: step k of the run is the same images, equally augmented, on any process.

Every random choice about them is a pure function of (seed, step, place in the global batch): nothing has to be saved to
resume, and each process makes its own slice of what one alone would make.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeres.core.errors import InputError
from edgeres.core.spec import ModelSpec, Preprocess
from edgeres.data.images import picture_from
from edgeres.data.sources import in_threads
from edgeres.data.split import Split
from edgeres.train.augment import Augment, augment_for, augmented, resized_crop
from edgeres.train.config import LoopConfig

Batch = tuple[Tensor, Tensor]
_MAX_BYTE = 255
_DRAWS_AN_IMAGE = 5
_ORDER, _IMAGES, _TORCH = range(3)  # keeps the three streams of one seed apart
_SEED_BITS = 63


@dataclass(frozen=True)
class Slice:
    """The places `start` to `stop` of the global batch that one process computes, and its device."""

    start: int
    stop: int
    device: torch.device


@dataclass(frozen=True, eq=False)
class Batches:
    """The images to learn from; the last incomplete batch of an epoch is left out."""

    split: Split
    spec: ModelSpec
    batch: int
    augment: Augment
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in the split."""
        return len(self.split) // self.batch

    def load(self) -> None:
        """Decodes what is to be held in memory, so that no step has to wait for it."""
        _ = self.pixels

    @cached_property
    def pixels(self) -> Tensor | None:
        """All images, uint8 (n, H, W, C); None if they are streamed: too many, or random crops of larger ones."""
        if self.spec.preprocess.resize is not None and self.augment != "none":
            return None
        inputs = self.split.inputs(self.spec)
        return None if inputs is None else torch.from_numpy(inputs)

    def from_step(self, first: int, last: int, part: Slice) -> Iterator[Batch]:
        """Steps `first` to `last` - 1: images float32 (N, C, H, W), normalised, and labels int64 (N,)."""
        pixels = self.pixels
        made = self._streamed(first, last, part) if pixels is None else self._gathered(pixels, first, last, part)
        labels = torch.from_numpy(self.split.labels)
        for images, places in made:
            ready = normalised_tensor(images.to(part.device, non_blocking=True), self.spec.preprocess)
            yield ready, labels[torch.from_numpy(places)].to(part.device, non_blocking=True)

    def places_at(self, step: int, part: Slice) -> NDArray[np.int64]:
        """Which images of the split the process sees at the step."""
        epoch, index = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng((self.seed, _ORDER, epoch)).permutation(len(self.split))
        return order[index * self.batch + part.start : index * self.batch + part.stop]

    def _gathered(
        self, pixels: Tensor, first: int, last: int, part: Slice
    ) -> Iterator[tuple[Tensor, NDArray[np.int64]]]:
        for step in range(first, last):
            places, draws = self.places_at(step, part), self._draws_at(step, part)
            images = pixels[torch.from_numpy(places)].to(part.device, non_blocking=True)
            yield augmented(images, draws, self.augment), places

    def _streamed(self, first: int, last: int, part: Slice) -> Iterator[tuple[Tensor, NDArray[np.int64]]]:
        jobs = (
            job
            for step in range(first, last)
            for job in zip(self.places_at(step, part), self._draws_at(step, part), strict=True)
        )
        decoded = in_threads(self._decode, jobs)
        for step in range(first, last):
            places = self.places_at(step, part)
            yield torch.from_numpy(np.stack([next(decoded) for _ in places])), places

    def _decode(self, job: tuple[int, NDArray[np.float64]]) -> NDArray[np.uint8]:
        place, draws = job
        if self.augment == "none":
            return self.split.fitted(place, self.spec)
        if self.spec.preprocess.fit == "crop":
            image = self.split.source.image(int(self.split.rows[place]))
        else:  # parts of what the network is shown, at that aspect
            image = picture_from(self.split.fitted(place, self.spec))
        return resized_crop(image, draws, self.augment, self.spec)

    def _draws_at(self, step: int, part: Slice) -> NDArray[np.float64]:
        """Uniform numbers in [0, 1), (n, 5): a row decides one image's augmentation."""
        draws = np.random.default_rng((self.seed, _IMAGES, step)).random((self.batch, _DRAWS_AN_IMAGE))
        return draws[part.start : part.stop]


def batches_for(split: Split, spec: ModelSpec, config: LoopConfig) -> Batches:
    """The batches `config` asks for; raises InputError if the split does not fill one."""
    if len(split) < config.batch:
        raise InputError(f"{split.name} has {len(split)} images, fewer than one batch of {config.batch}; lower --batch")
    augment = augment_for(config.augment, spec.input_shape[0])
    return Batches(split, spec, config.batch, augment, config.seed)


def normalised_tensor(images: Tensor, preprocess: Preprocess) -> Tensor:
    """uint8 (N, H, W, C) to float32 (N, C, H, W) in channels-last memory: (x / 255 - mean) / std."""
    mean, std = (torch.tensor(v, device=images.device) for v in (preprocess.mean, preprocess.std))
    return images.float().div_(_MAX_BYTE).sub_(mean).div_(std).permute(0, 3, 1, 2)


def torch_seed_at(step: int, *, process: int, seed: int) -> int:
    """Seed of torch's generators at a step: for dropout-like choices inside the network."""
    words = np.random.SeedSequence((seed, _TORCH, step, process)).generate_state(1, np.uint64)
    return int(words[0]) >> (64 - _SEED_BITS)
