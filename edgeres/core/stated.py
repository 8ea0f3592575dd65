"""What a user says of a network whose file does not: how an image becomes its input.

It is said once: calibrate keeps it in the scale table, quantize in the INT8 file's card, from where it travels on.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import Field

from edgeres.core.artifacts import Model, model_from
from edgeres.core.config import Config, config_from
from edgeres.core.errors import InputError
from edgeres.core.spec import Interpolation, ModelSpec, Preprocess

M = TypeVar("M", bound=Model)


class InputOptions(Config):
    """The options of every command that shows images to a file; one that edgeres wrote needs none of them."""

    unsaid: ClassVar[frozenset[str]] = frozenset({"mean", "std", "resize", "interpolation", "like"})

    mean: tuple[float, ...] | None = Field(
        None, description="of pixels in [0, 1], per channel: for an ONNX file of another tool, which does not say"
    )
    std: tuple[float, ...] | None = Field(None, description="of pixels in [0, 1], per channel; with --mean")
    resize: int | None = Field(None, gt=0, description="shorter side in pixels before the centre crop; with --mean")
    interpolation: Interpolation | None = Field(None, description="of --resize: bilinear unless said")
    like: Path | None = Field(None, description="instead of --mean: a model of edgeres that takes the same images")

    @property
    def said(self) -> tuple[str, ...]:
        """Names of those that were given."""
        return tuple(name for name in InputOptions.model_fields if getattr(self, name) is not None)


def with_input(model: M, options: InputOptions) -> M:
    """`model`, knowing how images become its input if its file or `options` say it.

    Raises:
        InputError: the file says it already, or what is given is half of it or does not fit the network.
    """
    if not (given := options.said):
        return model
    if model.spec.preprocess.is_known:
        raise InputError(f"{model.path} says itself how images become its input; leave out --{given[0]}")
    if options.like is None:
        return with_preprocess(model, _preprocess(options), ())
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
    return with_preprocess(model, seen.preprocess, seen.classes if seen.num_classes == wanted.num_classes else ())


def with_preprocess(model: M, preprocess: Preprocess, classes: tuple[str, ...]) -> M:
    """`model` with both stated; raises InputError if the channels differ or the crop is larger than the image."""
    _, height, width = model.spec.input_shape
    if preprocess.resize is not None and preprocess.resize < max(height, width):
        raise InputError(f"--resize {preprocess.resize} is smaller than the {height} x {width} {model.path} takes")
    values: dict[str, Any] = {**dict(model.spec), "preprocess": preprocess, "classes": classes}
    return replace(model, stated=config_from(ModelSpec, values, str(model.path)))


def _preprocess(options: InputOptions) -> Preprocess:
    if not options.mean or not options.std:
        raise InputError("--mean and --std belong together: give both, as in --mean 0.485,0.456,0.406")
    values = {"mean": options.mean, "std": options.std, "resize": options.resize}
    more = {"interpolation": options.interpolation} if options.interpolation else {}
    return config_from(Preprocess, {**values, **more}, "preprocessing")
