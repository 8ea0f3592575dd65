"""Networks that a library defines by name: timm, torchvision, and transformers by a folder's configuration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from edgeres.core.errors import InputError, require
from edgeres.core.spec import Preprocess
from edgeres.models.hugging_face import Made, of_folder

LIBRARIES = ("timm", "torchvision", "hf")


def definition(arch: str) -> Made:
    """`timm/NAME`, `torchvision/NAME` or `hf/FOLDER`.

    (classes -> network with random weights, usual input, usual preprocessing, names of its classes where it has any).
    """
    library, _, name = arch.partition("/")
    if library not in LIBRARIES:
        raise InputError(f"--arch {arch}: definitions come from {', '.join(LIBRARIES)}, as in timm/resnet50d")
    if library == "hf":
        return of_folder(Path(name))
    return (*(_of_timm if library == "timm" else _of_torchvision)(name), ())


def _of_timm(name: str) -> tuple[Callable[[int | None], nn.Module], tuple[int, int, int], Preprocess | None]:
    timm: Any = require("timm", "timm")
    if not timm.is_model(name):
        raise InputError(f"timm {timm.__version__} has no model {name!r}; timm.list_models() names them")
    config = timm.get_pretrained_cfg(name)
    known = config.to_dict() if config is not None else {}

    def make(classes: int | None) -> nn.Module:
        return timm.create_model(name, **({} if classes is None else {"num_classes": classes}))  # type: ignore[no-any-return]

    channels, height, width = known.get("input_size", (3, 224, 224))
    resize = int(height / known.get("crop_pct", 1.0))
    kinds = {"bilinear", "bicubic", "nearest", "lanczos"}
    how = known.get("interpolation") if known.get("interpolation") in kinds else "bilinear"
    mean, std = known.get("mean"), known.get("std")
    preprocess = Preprocess(mean=mean, std=std, resize=resize, interpolation=how) if mean and std else None
    return make, (channels, height, width), preprocess


def _of_torchvision(name: str) -> tuple[Callable[[int | None], nn.Module], tuple[int, int, int], Preprocess | None]:
    models: Any = require("torchvision.models", "train")
    if name not in models.list_models(models):
        raise InputError(f"torchvision has no classifier {name!r}; torchvision.models.list_models() names them")

    def make(classes: int | None) -> nn.Module:
        more = {"init_weights": False} if name in {"googlenet", "inception_v3"} else {}
        return models.get_model(name, weights=None, **more, **({} if classes is None else {"num_classes": classes}))  # type: ignore[no-any-return]

    usual = models.get_model_weights(name).DEFAULT.transforms()
    size, resize = usual.crop_size[0], usual.resize_size[0]
    preprocess = Preprocess(
        mean=tuple(usual.mean), std=tuple(usual.std), resize=resize, interpolation=usual.interpolation.value
    )
    return make, (3, size, size), preprocess
