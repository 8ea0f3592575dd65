"""The options of every study; with `--full` those of the paper. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from edgeres.core.artifacts import Checkpoint, model_from
from edgeres.core.config import Config
from edgeres.core.errors import InputError
from edgeres.core.names import DATA_NAMES
from edgeres.models import spec_from_arch
from edgeres.train.config import LoopConfig, Schedule

PAPER_EPOCHS = 164  # 64k steps of 128 of CIFAR-10's 50,000 images: He et al. 2015, section 4.2
PATHS_IN_FULL = 1000  # measurements for each length of a path: Veit et al. 2016


class TrainingConfig(Config):
    """What can be chosen for every study that trains; `paper` holds what --full puts in place of the defaults."""

    paper: ClassVar[dict[str, Any]] = {"data": "cifar10", "epochs": PAPER_EPOCHS, "batch": 128, "schedule": "step"}

    data: str = Field("digits", description="data set; with --full cifar10")
    full: bool = Field(False, description="the paper's own depth, data and schedule; hours on a GPU")
    seeds: int = Field(3, ge=1, description="networks of each kind")
    epochs: int = Field(8, ge=1, description=f"passes over the training images; with --full {PAPER_EPOCHS}")
    batch: int = Field(64, ge=1, description="images a step; with --full 128")
    lr: float = Field(0.1, gt=0, description="learning rate after the warm-up")
    schedule: Schedule = Field("cosine", description="of the learning rate; with --full step")
    warmup_epochs: float = Field(1.0, ge=0, description="epochs of linear warm-up")
    clip_norm: float | None = Field(None, gt=0, description="largest norm of the gradient")
    threads: int = Field(1, ge=1, description="CPU threads; more than 1 pays for large images only")
    download: bool = Field(False, description="fetch the data set if it is not here")

    @model_validator(mode="before")
    @classmethod
    def _in_full(cls, values: Any) -> Any:
        return {**cls.paper, **values} if isinstance(values, dict) and values.get("full") is True else values

    @property
    def setting(self) -> Literal["short", "full"]:
        """`full` only if nothing of the paper's setting was changed."""
        kept = all(getattr(self, name) == value for name, value in self.paper.items())
        return "full" if self.full and kept else "short"

    def loop(self, seed: int) -> LoopConfig:
        """The training of one network."""
        shared = self.model_dump(include={"epochs", "batch", "lr", "schedule", "warmup_epochs", "clip_norm", "threads"})
        return LoopConfig(**shared, seed=seed)


class DeepConfig(TrainingConfig):
    """For a study of one depth."""

    depth: int = Field(20, ge=8, description="of every network, 6n + 2; with --full 56")

    def check(self) -> None:
        """The networks exist."""
        spec_from_arch(f"resnet{self.depth}cifar", num_classes=2)


class DepthConfig(TrainingConfig):
    """Which depths; the rest is the training."""

    paper: ClassVar[dict[str, Any]] = {**TrainingConfig.paper, "lr": 0.1, "depths": (20, 32, 44, 56, 110)}

    depths: tuple[int, ...] = Field((8, 20, 32), description="6n + 2, from shallow to deep; with --full 20 to 110")

    lr: float = Field(0.03, gt=0, description="learning rate after the warm-up; with --full 0.1")

    def check(self) -> None:
        """The networks exist, and there are two depths to compare."""
        if len(set(self.depths)) < 2 or list(self.depths) != sorted(set(self.depths)):
            listed = ",".join(map(str, self.depths))
            raise InputError(f"--depths {listed}: give at least two, rising, such as 8,20,32")
        for depth in self.depths:
            spec_from_arch(f"resnet{depth}cifar", num_classes=2)


class OrderingConfig(DeepConfig):
    """Which network; the rest is the training."""

    paper: ClassVar[dict[str, Any]] = {**DeepConfig.paper, "depth": 110, "seeds": 5}

    depth: int = Field(20, ge=8, description="of every network, 6n + 2; with --full 110")


class ConnectConfig(DeepConfig):
    """Which networks; the rest is the training."""

    paper: ClassVar[dict[str, Any]] = {**DeepConfig.paper, "depth": 56}

    fc_lr: float = Field(0.02, gt=0, description="learning rate of the fully connected networks")


class GradientsConfig(DeepConfig):
    """Which network, and on how many images the gradient is taken; the rest is the training."""

    paper: ClassVar[dict[str, Any]] = {**DeepConfig.paper, "lr": 0.1, "depth": 56}

    depth: int = Field(32, ge=8, description="of every network, 6n + 2; with --full 56")
    epochs: int = Field(4, ge=1, description="passes over the training images; with --full 164")
    lr: float = Field(0.03, gt=0, description="learning rate after the warm-up; with --full 0.1")
    clip_norm: float | None = Field(1.0, gt=0, description="largest norm of the gradient: without norms none is safe")
    images: int = Field(128, ge=2, description="of train, on which the gradient is taken")


class LesionConfig(Config):
    """How many images to judge each lesion on, and how many sets of modules to delete at random."""

    data: str = Field(description=DATA_NAMES)
    images: int | None = Field(default=None, gt=0, description="of val, stratified; default: all")
    batch: int = Field(default=250, gt=0, description="images at a time")
    seed: int = Field(default=0, ge=0, description="of the choice of images and of the random sets")
    draws: int = Field(default=8, ge=0, description="random sets for each number of modules, 0 for no sets")
    largest: int = Field(default=20, ge=1, description="most modules deleted at random; only identity modules are")
    set_images: int = Field(default=250, gt=0, description="of those images, to judge the random sets on")
    full: bool = Field(default=False, description="judge the random sets on all images")
    control: Path | None = Field(default=None, description="checkpoint without shortcuts (vgg, plain) to lesion beside")
    download: bool = Field(default=False, description="fetch the data set if it is not here")

    def check(self) -> None:
        """The control is a checkpoint that exists."""
        if self.control is not None and not isinstance(model_from(self.control), Checkpoint):
            raise InputError(f"the control {self.control} is not a checkpoint; give a .safetensors file")


class ReorderConfig(Config):
    """How many pairs to swap, how often, and how many images to judge each order on."""

    data: str = Field(description=DATA_NAMES)
    images: int = Field(default=500, gt=0, description="of val, stratified")
    batch: int = Field(default=250, gt=0, description="images at a time")
    seed: int = Field(default=0, ge=0, description="of the choice of images and of the swaps")
    swaps: int = Field(default=8, ge=1, description="most pairs swapped")
    draws: int = Field(default=6, ge=1, description="random orders for each number of pairs")
    full: bool = Field(default=False, description="judge on all of val")
    download: bool = Field(default=False, description="fetch the data set if it is not here")


class PathsConfig(Config):
    """How many images and how many paths of each length."""

    data: str = Field(description=DATA_NAMES)
    images: int = Field(default=128, gt=0, description="of train, stratified")
    batch: int = Field(default=32, gt=0, description="images whose gradients are measured along one drawn path")
    seed: int = Field(default=0, ge=0, description="of the choice of images and paths")
    draws: int = Field(default=20, ge=2, description="random paths of each length")
    full: bool = Field(default=False, description=f"{PATHS_IN_FULL} random paths of each length, as in the paper")
    download: bool = Field(default=False, description="fetch the data set if it is not here")
