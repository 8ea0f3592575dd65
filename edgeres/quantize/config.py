"""The options of calibrate, quantize and qat. Imports no torch and no onnx."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from edgeres.core.config import Config
from edgeres.core.errors import InputError
from edgeres.core.input_options import InputOptions
from edgeres.core.names import DATA_NAMES, lookup
from edgeres.quantize.calibrators import CALIBRATORS
from edgeres.quantize.profiles import PROFILES
from edgeres.quantize.trt_cache import version_number
from edgeres.train.config import LoopConfig

AUTO = "auto"
FEWEST_IMAGES = 32  # to calibrate with
FEWEST_TO_LEARN = 64
QUICK, DEFAULT, BEST = "quick", "default", "best"
BEST_SQNR = 36.0  # dB of the logits that `best` leaves skips float for: at 34, 0.9 % of ResNet-56's guesses change


class CalibrateConfig(InputOptions):
    """Which images are looked at; every method is decided from the same statistics."""

    data: str = Field(description=DATA_NAMES)
    images: int = Field(512, ge=FEWEST_IMAGES, description="of train, stratified by class")
    seed: int = Field(0, ge=0, description="of the choice of images")
    methods: tuple[str, ...] = Field(tuple(CALIBRATORS), min_length=1, description="calibrators to decide by")
    trt_cache: str | None = Field(None, description="TensorRT 8 to 10 to write scales.json.cache for, such as 8.6.1")
    trt_method: str = Field("mse", description="calibrator whose bounds the cache takes")
    download: bool = Field(False, description="fetch the data set if it is not here")

    def check(self) -> None:
        """The methods exist, and TensorRT of the version reads caches."""
        for method in self.methods:
            lookup(CALIBRATORS, method, "calibrator")
        if self.trt_cache is not None:
            version_number(self.trt_cache)
            if self.trt_method not in self.methods:
                raise InputError(f"--trt-method {self.trt_method} is not among --methods {', '.join(self.methods)}")

    def needless(self) -> dict[str, str]:
        """The cache's method without a cache."""
        return {} if self.trt_cache else {"trt_method": "it is the method of --trt-cache"}


class QuantizeConfig(Config):
    """Who will run the file, which clipping bounds are used, what is improved and what stays float."""

    scales: Path | None = Field(None, description="scale table of this model, made by edgeres calibrate")
    method: str = Field("mse", description="calibrator, or auto: the best of each tensor if that is better")
    profile: str = Field("tensorrt", description="tensorrt, tensorrt-fp16 or ort-cpu: who runs the file")
    effort: Literal["quick", "default", "best"] | None = Field(
        None,
        description="quick: bounds alone; default: a minute of learning (ort-cpu: quick); best: minutes, skips float"
        f" for {BEST_SQNR:g} dB",
    )
    max_loss: float | None = Field(None, ge=0, description="points; leaves the cheapest modules float that keep it")
    min_sqnr: float | None = Field(None, gt=0, description="dB; leaves the cheapest skips float: logits keep it")
    latency: Path | None = Field(None, description="latency table; what a module left float costs")
    keep: tuple[str, ...] = Field((), description="modules, layers or skips (layer2.1.skip) that stay float")
    stem: bool = Field(True, description="quantize the first layer")
    head: bool = Field(True, description="quantize the last layer")
    reduce_range: Literal["auto", "on", "off"] = Field(
        "auto", description="ort-cpu: 7-bit weights for CPUs without VNNI"
    )
    data: str | None = Field(None, description="where the calibration images are now; default: as in the scale table")

    def check(self) -> None:
        """Names exist, and what is asked for goes together."""
        lookup({**CALIBRATORS, AUTO: None}, self.method, "calibrator")
        lookup(PROFILES, self.profile, "profile")
        limits = {"--max-loss": self.max_loss is not None, "--min-sqnr": self.min_sqnr is not None}
        learns = self.effort in (DEFAULT, BEST)
        of_tensorrt = {"--method auto": self.method == AUTO, f"--effort {self.effort}": learns, **limits}
        if self.profile == "ort-cpu" and (name := next((name for name, given in of_tensorrt.items() if given), "")):
            raise InputError(f"{name} is for the tensorrt profiles; leave it out with --profile ort-cpu")
        if self.reduce_range != "auto" and self.profile != "ort-cpu":
            raise InputError("--reduce-range belongs to --profile ort-cpu; TensorRT has no use for it")

    def needless(self) -> dict[str, str]:
        """What only a choice on images or a limit of the loss looks at."""
        needless = {}
        if self.max_loss is None:
            needless["latency"] = "it prices the modules that --max-loss leaves float"
            if not (self.spent != QUICK or self.method == AUTO or self.min_sqnr):
                needless["data"] = "no image is looked at by --effort quick without --min-sqnr or --max-loss"
        return needless

    @property
    def spent(self) -> str:
        """The effort itself."""
        return self.effort or (QUICK if self.profile == "ort-cpu" else DEFAULT)

    @property
    def kept_sqnr(self) -> float | None:
        """What skips are left float for, in dB."""
        return self.min_sqnr or (BEST_SQNR if self.effort == BEST else None)


class QatConfig(LoopConfig):
    """What is learned from, and for how long; the teacher is the float graph itself."""

    data: str = Field(description=DATA_NAMES)
    scales: Path | None = Field(default=None, description="scale table of this model, made by edgeres calibrate")
    method: str = Field(default="mse", description="calibrator whose bounds are started from")
    images: int = Field(default=4000, ge=FEWEST_TO_LEARN, description="of train; all if there are fewer")
    finetune: bool = Field(default=False, description="learn from the labels too")
    effort: Literal["quick", "default"] = Field(default="default", description="of quantize, which this starts from")
    epochs: int = Field(default=3, ge=1, description="passes over the images")
    batch: int = Field(default=64, ge=1, description="images per step")
    lr: float = Field(default=3e-5, gt=0, description="learning rate after the warm-up")
    weight_decay: float = Field(default=0.0, ge=0, description="of weights; not of biases and bounds")
    warmup_epochs: float = Field(
        default=0.3, ge=0, description="epochs of linear warm-up, a tenth of the steps at most"
    )
    download: bool = Field(default=False, description="fetch the data set if it is not here")

    def check(self) -> None:
        """The calibrator exists."""
        lookup(CALIBRATORS, self.method, "calibrator")
