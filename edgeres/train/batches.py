"""Training batches by number: step k of the run is the same images, equally augmented, on any process.

Every random choice about them is a pure function of (seed, step, place in the global batch): nothing has to be saved to
resume, and each process makes its own slice of what one alone would make. An image is augmented by uniform numbers
u = (u0, u1, u2, u3, u4) in [0, 1), small images in batches on tensors, large ones singly on PIL:

crop    pad by an eighth of the side (4 pixels at 32), cut out at (u0, u1); flip if u2 < 1/2
large   cut out a part of area from u3 and aspect ratio from u4 at (u0, u1), resize; flip if u2 < 1/2
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from typing import Literal

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

from edgeres.core import processes
from edgeres.core.errors import DeviceError, InputError
from edgeres.core.spec import ModelSpec, Preprocess
from edgeres.data.images import RESAMPLING, Pixels, picture_from, pixels_from, upright, with_channels
from edgeres.data.pixels import in_threads
from edgeres.data.split import Split
from edgeres.train.config import AugmentChoice, LoopConfig, Precision

Augment = Literal["none", "crop", "crop-flip"]
Draws = NDArray[np.float64]
_PRECISIONS = {"fp32": "no", "fp16": "fp16", "bf16": "bf16"}
_PAD_SHARE = 1 / 8  # 4 of 32 pixels, as He et al. 2015, section 4.2
_AREA = (0.08, 1.0)  # of the image, as Szegedy et al. 2014, arXiv 1409.4842, section 6
_LOG_RATIO = (math.log(3 / 4), math.log(4 / 3))
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
        if part.start == part.stop:
            yield from repeat((torch.empty(0, device=part.device),) * 2, last - first)
            return
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


def accelerator_for(precision: Precision) -> Accelerator:
    """This process's device, CUDA first, and its group; raises DeviceError for fp16 or bf16 without a GPU."""
    device = _state().device.type
    if precision == "auto":
        has_bf16 = device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "fp32" if device != "cuda" else "bf16" if has_bf16 else "fp16"
    elif precision != "fp32" and device == "cpu":
        raise DeviceError(f"--precision {precision} needs a GPU and there is none here; use fp32 or auto")
    return Accelerator(mixed_precision=_PRECISIONS[precision], cpu=device == "cpu")


def slice_for(config: LoopConfig, accelerator: Accelerator, *, is_shared: bool = True) -> Slice:
    """This process's part of the global batch, all or none unless it `is_shared`; raises InputError if it is uneven."""
    if not is_shared:
        return Slice(0, config.batch * accelerator.is_main_process, accelerator.device)
    each, rest = divmod(config.batch, accelerator.num_processes)
    if rest:
        raise InputError(
            f"a batch of {config.batch} does not divide by {accelerator.num_processes} processes; change it"
        )
    start = each * accelerator.process_index
    return Slice(start, start + each, accelerator.device)


def _state() -> PartialState:
    """What Accelerate knows of the processes, found out again where others have come or gone since."""
    if processes.count() > 1:
        processes.join()
    if (PartialState._shared_state or {"num_processes": 1})["num_processes"] != processes.count():
        PartialState._shared_state, AcceleratorState._shared_state = {}, {}
    return PartialState(cpu=not torch.accelerator.is_available())


def normalised_tensor(images: Tensor, preprocess: Preprocess) -> Tensor:
    """uint8 (N, H, W, C) to float32 (N, C, H, W) in channels-last memory: (x / 255 - mean) / std."""
    mean, std = (torch.tensor(v, device=images.device) for v in (preprocess.mean, preprocess.std))
    return images.float().div_(_MAX_BYTE).sub_(mean).div_(std).permute(0, 3, 1, 2)


def torch_seed_at(step: int, *, process: int, seed: int) -> int:
    """Seed of torch's generators at a step: for dropout-like choices inside the network."""
    words = np.random.SeedSequence((seed, _TORCH, step, process)).generate_state(1, np.uint64)
    return int(words[0]) >> (64 - _SEED_BITS)


def augment_for(choice: AugmentChoice, channels: int) -> Augment:
    """What `auto` means: photographs may be mirrored, grey images (digits, scans) may not."""
    if choice != "auto":
        return choice
    return "crop-flip" if channels == 3 else "crop"


def padding_of(height: int, width: int) -> int:
    """Pixels of black around an image before it is cropped."""
    return max(1, round(min(height, width) * _PAD_SHARE))


def augmented(images: Tensor, draws: Draws, kind: Augment) -> Tensor:
    """uint8 (N, H, W, C), each image shifted (and mirrored) as its row of `draws` (N, 5) says."""
    if kind == "none":
        return images
    height, width = images.shape[1:3]
    margin = padding_of(height, width)
    places = np.floor(draws[:, :2] * (2 * margin + 1)).astype(np.int64)
    down = places[:, :1] + np.arange(height)
    across = places[:, 1:] + np.arange(width)
    if kind == "crop-flip":
        across = np.where(draws[:, 2:3] < 0.5, across[:, ::-1], across)
    padded = pad(images, (0, 0, margin, margin, margin, margin))
    rows, ys, xs = (torch.from_numpy(a).to(images.device) for a in (np.arange(len(images)), down, across))
    return padded[rows[:, None, None], ys[:, :, None], xs[:, None, :]]


def resized_crop(image: Image.Image, draws: Draws, kind: Augment, spec: ModelSpec) -> Pixels:
    """uint8 (H, W, C) of the input's size from a random part of the image, `draws` (5,).

    A part that would stick out is shortened to the image's side instead of being drawn again.
    """
    channels, height, width = spec.input_shape
    image = upright(image, spec.preprocess)
    box = _box(image.size, draws)
    resampling = RESAMPLING[spec.preprocess.interpolation]
    image = with_channels(image, channels).resize((width, height), resampling, box=box)
    if kind == "crop-flip" and draws[2] < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return pixels_from(image)


def _box(size: tuple[int, int], draws: Draws) -> tuple[int, int, int, int]:
    width, height = size
    area = width * height * _between(_AREA, draws[3])
    ratio = math.exp(_between(_LOG_RATIO, draws[4]))
    part_width = min(width, max(1, round(math.sqrt(area * ratio))))
    part_height = min(height, max(1, round(math.sqrt(area / ratio))))
    left = int(draws[1] * (width - part_width + 1))
    top = int(draws[0] * (height - part_height + 1))
    return left, top, left + part_width, top + part_height


def _between(bounds: tuple[float, float], share: float) -> float:
    return bounds[0] + share * (bounds[1] - bounds[0])
