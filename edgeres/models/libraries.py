"""Networks that a library defines by name: timm, torchvision, and transformers by a folder's `config.json`.

No code that a folder names is run, and weights come from the user's file alone. `preprocessor_config.json` beside it
says how images come to the input: of `size` and `crop_size` or `crop_pct` both the shorter side and the crop, or,
without a crop, both sides.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from edgeres.core.errors import InputError, reason_of, require
from edgeres.core.spec import Preprocess

LIBRARIES = ("timm", "torchvision", "hf")
_CONFIG, _IMAGES = "config.json", "preprocessor_config.json"
_USUAL = 224
_CROPPED_BELOW = 384  # a ConvNextImageProcessor, ResNet's too, squashes what is larger
_KINDS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # PIL's numbers
Made = tuple[Callable[[int | None], nn.Module], tuple[int, int, int], Preprocess | None, tuple[str, ...]]


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
        raise InputError(
            f"torchvision has no classifier {name!r}; torchvision.models.list_models(torchvision.models) names them,"
            " and any other network of it comes in as a function: edgeres import package.module:function --weights FILE"
        )

    def make(classes: int | None) -> nn.Module:
        more = {"init_weights": False} if name in {"googlenet", "inception_v3"} else {}
        return models.get_model(name, weights=None, **more, **({} if classes is None else {"num_classes": classes}))  # type: ignore[no-any-return]

    usual = models.get_model_weights(name).DEFAULT.transforms()
    size, resize = usual.crop_size[0], usual.resize_size[0]
    preprocess = Preprocess(
        mean=tuple(usual.mean), std=tuple(usual.std), resize=resize, interpolation=usual.interpolation.value
    )
    return make, (3, size, size), preprocess


def of_folder(folder: Path) -> Made:
    """(classes -> network with random weights, its usual input, its usual preprocessing, names of its classes).

    Raises InputError if the folder holds no configuration of a classifier that transformers has.
    """
    config = _read(folder / _CONFIG)
    if config is None:
        raise InputError(f"--arch hf/{folder}: there is no {folder / _CONFIG}; name the folder of save_pretrained")
    transformers: Any = require("transformers", "hf")

    def make(classes: int | None) -> nn.Module:
        try:
            found = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            if classes is not None:
                found.num_labels = classes
            kind = transformers.AutoModelForImageClassification
            return _giving_scores(kind.from_config(found, trust_remote_code=False))
        except (ValueError, KeyError, OSError, TypeError) as err:
            what = f"--arch hf/{folder}: transformers has no such classifier of images"
            raise InputError(f"{what}: {reason_of(err)}") from err

    try:
        return make, *_said(config, _read(folder / _IMAGES) or {})
    except (ValueError, TypeError, AttributeError, ArithmeticError) as err:
        what = f"{folder}: {_CONFIG} and {_IMAGES} say nothing that can be taken of images and classes"
        raise InputError(f"{what}: {err}") from err


def _said(
    config: dict[str, Any], images: dict[str, Any]
) -> tuple[tuple[int, int, int], Preprocess | None, tuple[str, ...]]:
    """(usual input, usual preprocessing, names of classes)."""
    side, resize, fit = _sizes(images, config.get("image_size"))
    channels = int(config.get("num_channels", 3))
    if channels < 1 or side < 1:
        raise ValueError(f"{channels} channels of {side} x {side} pixels")
    mean, std = images.get("image_mean"), images.get("image_std")
    is_known = images.get("do_normalize", True) and mean and std
    how = {"interpolation": _KINDS.get(images.get("resample", 2), "bilinear"), "resize": resize, "fit": fit}
    preprocess = Preprocess(mean=mean, std=std, **cast("dict[str, Any]", how)) if is_known else None
    return (channels, side, side), preprocess, _classes(config)


def _giving_scores(network: nn.Module) -> nn.Module:
    """`network`, whose forward gives the logits alone."""
    kind = type(network)

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        scores: Tensor = kind.forward(self, pixel_values=x, return_dict=True).logits
        return scores

    network.__class__ = type(kind.__name__, (kind,), {"forward": forward})
    return network


def _sizes(images: dict[str, Any], own: Any) -> tuple[int, int | None, str]:
    """(side of the input, shorter side before the crop, fit)."""
    size, crop = _side(images.get("size"), own), images.get("crop_size")
    if images.get("crop_pct") and size < _CROPPED_BELOW:
        return size, math.floor(size / images["crop_pct"]), "crop"
    if crop and images.get("do_center_crop", True):
        return _side(crop, size), size, "crop"
    return size, None, "squash"


def _side(said: Any, usual: Any) -> int:
    """Of a number, {"shortest_edge"} or {"height", "width"}."""
    if isinstance(said, dict):
        said = said.get("shortest_edge", said.get("height"))
    return int(said or (usual if isinstance(usual, int) else _USUAL))


def _classes(config: dict[str, Any]) -> tuple[str, ...]:
    """Their names, unless they are numbered only."""
    names = {int(number): str(name) for number, name in (config.get("id2label") or {}).items()}
    ordered = tuple(names[number] for number in sorted(names))
    return () if all(name == f"LABEL_{number}" for number, name in names.items()) else ordered


def _read(path: Path) -> dict[str, Any] | None:
    """What the file says, None if it is not there."""
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as err:
        raise InputError(f"{path} is not readable JSON: {err}") from err
    if not isinstance(found, dict):
        raise InputError(f"{path} holds no options")
    return found
