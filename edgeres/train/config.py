"""What every training has in common, to which stages add their own fields, and the options of `edgeres train`."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from edgeres.core.config import Config
from edgeres.core.input_options import check_pixels
from edgeres.models import spec_from_arch
from edgeres.models.family import Ordering

Precision = Literal["auto", "fp32", "fp16", "bf16"]
Schedule = Literal["cosine", "step"]
AugmentChoice = Literal["auto", "none", "crop", "crop-flip"]


class LoopConfig(Config):
    """Options of the loop: SGD with Nesterov momentum; `batch` is shared by all processes."""

    incidental: ClassVar[frozenset[str]] = frozenset({"download", "save_every_s"})

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


class TrainConfig(LoopConfig):
    """Options of `edgeres train`."""

    gone: ClassVar[dict[str, Any]] = {"distill_weight": 0.9, "temperature": 4.0, "val_every": 1}

    arch: str = Field(default="resnet20", description="network, see: edgeres ls models")
    data: str = Field(default="digits", description="data set, see: edgeres ls data")
    ordering: Ordering = Field(default="original", description="order of batch norm, activation, addition")
    shortcut: Literal["A", "B", "C"] | None = Field(default=None, description="zero-pad or projections")
    width: int | None = Field(default=None, ge=1, description="channels of the first stage")
    layers: int | None = Field(default=None, ge=1, le=64, description="layers in a module")
    bottleneck: bool | None = Field(default=None, description="1x1, 3x3, 1x1 modules")
    image_size: int | None = Field(default=None, description="side of the input in pixels")
    download: bool = Field(default=False, description="fetch the data set if it is not here")

    def check(self) -> None:
        """The network exists with these options."""
        spec_from_arch(self.arch, num_classes=2, options=self.options)
        check_pixels("image-size", self.image_size)

    @property
    def options(self) -> dict[str, str | int | float]:
        """Those of the network's family that are not its own default."""
        chosen = self.model_dump(include={"ordering", "shortcut", "width", "layers", "bottleneck"})
        return {name: value for name, value in chosen.items() if value not in (None, "original")}
