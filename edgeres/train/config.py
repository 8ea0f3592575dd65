"""What every training has in common; stages add their own fields. Imports no torch."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from edgeres.core.config import Config

Precision = Literal["auto", "fp32", "fp16", "bf16"]
Schedule = Literal["cosine", "step", "constant"]
AugmentChoice = Literal["auto", "none", "crop", "crop-flip"]


class LoopConfig(Config):
    """Options of the loop: SGD with Nesterov momentum; `batch` is shared by all processes."""

    incidental: ClassVar[frozenset[str]] = frozenset({"download", "save_every_s", "tensorboard", "val_every"})

    epochs: int = Field(default=30, ge=1, description="passes over the training images")
    batch: int = Field(default=128, ge=1, description="images per step, over all processes")
    lr: float = Field(default=0.1, gt=0, description="learning rate after the warm-up")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="Nesterov momentum")
    weight_decay: float = Field(default=1e-4, ge=0, description="of weights; not of biases and batch norms")
    schedule: Schedule = Field(default="cosine", description="step divides the rate by 10 at 1/2 and 3/4")
    warmup_epochs: float = Field(default=1.0, ge=0, description="epochs of linear warm-up")
    clip_norm: float | None = Field(default=None, gt=0, description="largest norm of the gradient")
    ema: float = Field(default=0.0, ge=0, lt=1, description="decay of averaged weights, 0 for none")
    augment: AugmentChoice = Field(default="auto", description="auto: crop, and flip if in colour")
    precision: Precision = Field(default="auto", description="auto: bf16 or fp16 on a GPU, fp32 on a CPU")
    threads: int | None = Field(default=None, ge=1, description="CPU threads of each process")
    seed: int = Field(default=0, ge=0, description="of initial weights, order and augmentation")
    save_every_s: float = Field(default=30.0, ge=0, description="seconds between saved states")
    tensorboard: bool = Field(default=False, description="write TensorBoard events too")
