"""What a user says of a network whose file does not: how an image becomes its input.

It is said once: calibrate keeps it in the scale table, quantize in the INT8 file's card, from where it travels on.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BeforeValidator, Field

from edgeres.core.artifacts import Model, model_from
from edgeres.core.config import Config, config_from
from edgeres.core.errors import InputError
from edgeres.core.spec import Interpolation, ModelSpec, Preprocess

M = TypeVar("M", bound=Model)
_LEAST_PIXELS = 4  # what the strides of a CIFAR network multiply to: of fewer pixels they leave nothing
_MOST_PIXELS = 4096  # from here the first feature map alone takes 1 GiB an image: 4096^2 x 16 x 4 bytes (resnet20)
_HOW = (
    "does not say how images come to that size: add --resize PIXELS (shorter side, then centre crop), --fit squash,"
    " --fit letterbox, or --fit none if all of them have it"
)
FitOption = Literal["crop", "squash", "letterbox", "none"]  # none is a crop without a resize
Sides = tuple[int, int]  # height and width in pixels
_SIZE = re.compile(r"[0-9]{1,9}(x[0-9]{1,9})?")


def _size_from(given: Any) -> Any:
    """A whole number for a square, "HEIGHTxWIDTH" otherwise; raises InputError for text that is neither, or no size."""
    if isinstance(given, str) and not _SIZE.fullmatch(given):
        raise InputError(f"--size {given}: a number of pixels, or HEIGHTxWIDTH such as 48x320")
    if not isinstance(given, str | int):
        return given
    sides = sides_of(given)
    for side in sides:
        check_pixels("size", side)
    return sides[0] if len(set(sides)) == 1 else given


Size = Annotated[str | int, BeforeValidator(_size_from)]


def sides_of(size: str | int) -> Sides:
    """Height and width of a `Size`."""
    height, _, width = str(size).partition("x")
    return int(height), int(width or height)


class FeedOptions(Config):
    """How images become a network's input, said of a file that does not say it; `preprocess_from` makes it one."""

    unsaid: ClassVar[frozenset[str]] = frozenset({"mean", "std", "resize", "interpolation", "fit", "border", "exif"})

    mean: tuple[float, ...] | None = Field(None, description="of pixels in [0, 1], per channel")
    std: tuple[float, ...] | None = Field(None, description="of pixels in [0, 1], per channel; with --mean")
    resize: int | None = Field(None, gt=0, description="shorter side in pixels before the centre crop")
    interpolation: Interpolation | None = Field(None, description="of the resize: bilinear unless said")
    fit: FitOption | None = Field(None, description="how images come to the input's size; none: they have it")
    border: int | None = Field(None, ge=0, le=255, description="grey value around a letterboxed image: 0 unless said")
    exif: bool | None = Field(None, description="turn images upright by their EXIF orientation: no unless said")


class InputOptions(FeedOptions):
    """The options of every command that shows images to a file; one that edgeres wrote needs none of them."""

    unsaid: ClassVar[frozenset[str]] = FeedOptions.unsaid | {"like"}

    like: Path | None = Field(
        None, description="for an ONNX file of another tool, instead of --mean and so on: a model fed the same images"
    )

    @property
    def said(self) -> tuple[str, ...]:
        """Names of those that were given."""
        return tuple(name for name in InputOptions.model_fields if getattr(self, name) is not None)


def with_input(model: M, options: InputOptions) -> M:
    """`model`, knowing how images become its input if its file or `options` say it.

    Raises InputError if the file says it already, or what is given is half of it or does not fit the network.
    """
    if not (given := options.said):
        return model
    if model.spec.preprocess.is_known:
        raise InputError(f"{model.path} says itself how images become its input; leave out --{given[0]}")
    if options.like is None:
        if not options.mean or not options.std:
            said = "belong together: give both" if options.mean or options.std else f"are needed beside --{given[0]}"
            raise InputError(f"--mean and --std {said}, as in --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225")
        return with_preprocess(model, preprocess_from(options, model.spec.preprocess, model.spec.input_shape), ())
    if len(given) > 1:
        raise InputError(f"--like says all of it; leave out --{given[0]}")
    return as_in(model, model_from(options.like))


def as_in(model: M, other: Model) -> M:
    """`model` fed as `other` is; raises InputError if that takes other images or does not say."""
    seen, wanted = other.spec, model.spec
    if not seen.preprocess.is_known:
        raise InputError(f"{other.path} does not say how images become its input either; give --mean and --std")
    if seen.input_shape != wanted.input_shape:
        sizes = [" x ".join(map(str, spec.input_shape)) for spec in (wanted, seen)]
        raise InputError(f"{model.path} takes {sizes[0]}, {other.path} {sizes[1]}: give --mean, --std and --resize")
    classes = seen.classes if (seen.num_classes, seen.task) == (wanted.num_classes, wanted.task) else ()
    return with_preprocess(model, seen.preprocess, classes)


def with_preprocess(model: M, preprocess: Preprocess, classes: tuple[str, ...]) -> M:
    """`model` with both stated; raises InputError if the channels differ."""
    values: dict[str, Any] = {**dict(model.spec), "preprocess": preprocess, "classes": classes}
    return replace(model, stated=config_from(ModelSpec, values, str(model.path)))


def preprocess_from(
    options: FeedOptions, base: Preprocess, shape: tuple[int, int, int], size: str | int | None = None
) -> Preprocess:
    """`base`, of an input of `shape` (C, H, W), with what `options` say instead; `size` if it was given anew.

    Raises InputError where it is contradictory, or leaves open how images come to the input's size.
    """
    check_feed(options)
    if options.mean is not None and len(options.mean) not in {1, shape[0]}:
        raise InputError(f"--mean has {len(options.mean)} values for {shape[0]} channels")
    names = FeedOptions.unsaid - {"fit", "resize"}
    said = {name: value for name, value in options if name in names and value is not None}
    fit = options.fit or base.fit
    if fit != "letterbox":
        said.setdefault("border", 0)
    resize, sides = _resize_of(options, base, size), shape[1:] if size is None else sides_of(size)
    if options.resize is None and resize is not None and resize < max(sides):
        raise InputError(f"an input of {shape[1]} x {shape[2]} {_HOW}")
    check_crop(resize, max(sides))
    values = {**dict(base), **said, "fit": "crop" if fit == "none" else fit, "resize": resize}
    return config_from(Preprocess, values, "preprocessing")


def check_feed(options: FeedOptions) -> None:
    """Raises InputError for what is contradictory whatever the network takes."""
    if (options.mean is None) != (options.std is None):
        raise InputError("--mean and --std belong together: give both or neither")
    if options.resize is not None and options.fit in {"letterbox", "none"}:
        raise InputError(f"--fit {options.fit} crops nothing; leave out --resize {options.resize}")
    check_pixels("resize", options.resize)
    fit = options.fit or ("letterbox" if options.border else "crop")  # which the network's own may be
    values = {"mean": options.mean or (), "std": options.std or (), "border": options.border or 0}
    config_from(Preprocess, {**values, "fit": "crop" if fit == "none" else fit}, "preprocessing")


def check_pixels(name: str, side: int | None) -> None:
    """Raises InputError if the option `name` gives images too few or too many pixels a side."""
    if side is not None and side < _LEAST_PIXELS:
        raise InputError(
            f"--{name} {side}: images of fewer than {_LEAST_PIXELS} pixels a side are not taken, the strides leave"
            " nothing of them"
        )
    if side is not None and side > _MOST_PIXELS:
        raise InputError(
            f"--{name} {side}: at most {_MOST_PIXELS} pixels a side are taken; of an image that large one feature map"
            " fills a GiB of memory"
        )


def check_crop(resize: int | None, side: int | None) -> None:
    """Raises InputError if the input's side is not in what images are resized to, where both are known."""
    if resize is not None and side is not None and resize < side:
        raise InputError(f"--resize {resize} is smaller than the input, the {side} pixels that are cropped from it")


def _resize_of(options: FeedOptions, base: Preprocess, size: str | int | None) -> int | None:
    """Raises InputError where it is not said how images come to the input's size."""
    if options.resize is not None:
        return options.resize
    if options.fit == "crop" and (base.resize is None or size is not None):
        raise InputError("--fit crop needs --resize, the shorter side in pixels before the crop")
    if options.fit in {"squash", "letterbox", "none"}:
        return None
    if size is not None and base.resize is not None:
        raise InputError(f"--size {size} {_HOW}")
    return base.resize
