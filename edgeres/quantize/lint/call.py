"""`edgeres lint`: the rules, the repair and its numeric check; a real build is the caller's to make."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from edgeres.core.artifacts import OnnxModel, model_from
from edgeres.core.config import Record, config_from
from edgeres.core.errors import InputError, StageError, reason_of, require
from edgeres.core.files import written
from edgeres.core.input_options import InputOptions, Size, preprocess_from, with_input
from edgeres.core.lineage import advised, source_of
from edgeres.core.spec import FROM_ONNX, UNKNOWN_PREPROCESS, ModelSpec
from edgeres.data import dataset_from
from edgeres.graph.session import GraphSession
from edgeres.graph.view import opset_of
from edgeres.quantize.calibrators import Histogram, amax_from
from edgeres.quantize.lint import is_quantized, lint
from edgeres.quantize.lint.pairs import AXIS_OPSET, Finding, problems, tensorrt_of
from edgeres.quantize.lint.structure import NUMBER, POOL
from edgeres.quantize.repair import repair, without_pairs
from edgeres.quantize.repair.check import DEEP_DB, TOLERANCE_DB, ImageInput, check_of, image_input_of
from edgeres.quantize.repair.inputs import COARSER_DB, coarseness

_OF_REPAIR = ("out", "data", "images", "tolerance_db", "layout", "size", *InputOptions.model_fields)
_REASON_SHOWN = 300
_METHOD, _BATCH = "mse", 16  # of a range that is measured; images at a time
_AGAIN = "calibrate and quantize the float model again"
_OTHER_IMAGES = "random images may lie outside the ranges it was calibrated for: check it on real ones with --data"
_ANY_CLASSES = 2  # of a spec that only says how images are fed
Build = Callable[[Path, tuple[str, ...]], tuple[str, str | None] | None]


class LintConfig(InputOptions):
    """What is checked besides the rules, and whether a repaired file is written."""

    fix: bool = Field(False, description="write a repaired file; the source is never touched")
    out: Path | None = Field(None, description="the repaired file; default: NAME.fixed.onnx beside the source")
    jetpack: str | None = Field(None, description="JetPack release it is for, as `edgeres board check` says it")
    build: bool = Field(True, description="parse and build with TensorRT-RTX where it is installed")
    targets: tuple[str, ...] = Field(
        ("sm86", "sm89", "sm120"), description="GPU architectures that TensorRT-RTX builds for"
    )
    data: str | None = Field(
        None, description="images for the numeric check (their train split); default: random textures"
    )
    images: int = Field(32, gt=0, description="images of the numeric check")
    tolerance_db: float | None = Field(
        None,
        description=f"least SQNR of repaired against original outputs; default: {TOLERANCE_DB:g}, or {DEEP_DB:g} where"
        " both are as far from the float graph",
    )
    layout: Literal["nchw", "nhwc"] | None = Field(
        None, description="of the graph's input, where its shape does not tell"
    )
    size: Size | None = Field(
        None, description="in pixels of an input whose size the graph leaves open, 96 or 48x320 (height first)"
    )

    def check(self) -> None:
        """The release is known; options of the repair come with it."""
        if self.jetpack is not None:
            tensorrt_of(self.jetpack)
        given = [name for name in _OF_REPAIR if name in self.model_fields_set]
        if not self.fix and given:
            raise InputError(f"--{given[0].replace('_', '-')} belongs to a repair; add --fix")
        if self.out is not None and self.out.suffix.lower() != ".onnx":
            raise InputError(f"--out {self.out}: lint writes an .onnx file; name it so")
        if self.said and self.data is None:
            raise InputError(f"--{self.said[0]} says how the images of --data are fed; name them, or leave it out")
        if self.like is not None and len(self.said) > 1:
            raise InputError(f"--like says all of it; leave out --{self.said[0]}")


class Verdict(Record):
    """Of one file: findings, and what TensorRT-RTX said (`built_by` is None if it was not asked)."""

    path: str
    findings: tuple[Finding, ...]
    built_by: str | None = None
    build_error: str | None = None

    @property
    def is_clean(self) -> bool:
        """No errors, nothing slow, and it builds."""
        return not problems(self.findings) and self.build_error is None


class LintReport(Record):
    """`repaired` is None where nothing was written.

    `sqnr_db`: its outputs against the original's on `images`, at least `needed_db`; `top1_agreement` if they are real.
    `coarser_db`: how much more noise than the original's ranges ask for the worst input of a layer or addition gets, of
    `inputs` compared; `unknown_inputs`: those for which the original had no range.
    """

    schema_version: int = 1
    quantized: bool
    source: Verdict
    repaired: Verdict | None = None
    notes: tuple[str, ...] = ()
    sqnr_db: float | None = None
    needed_db: float | None = None
    top1_agreement: float | None = None
    images: str | None = None
    coarser_db: float | None = None
    inputs: int | None = None
    unknown_inputs: tuple[str, ...] = ()

    @property
    def is_clean(self) -> bool:
        """Whether the file that counts, the repaired one if there is one, is clean."""
        return (self.repaired or self.source).is_clean


def lint_call(path: Path, config: LintConfig, build: Build) -> LintReport:
    """Checks `path`, and with `config.fix` writes a repaired file.

    `build`: (file, architectures) -> (who built, what was refused), or None where nothing can; not called without
    `config.build`.

    Raises:
        InputError: not a valid ONNX file, one without Q/DQ pairs (unless only its opset is to be checked against
            `config.jetpack`), or one that cannot be rewritten.
        StageError: the repaired graph computes something else; nothing is written.
    """
    config.check()
    model = checked_model(path)
    if not (quantized := is_quantized(model)) and (config.jetpack is None or config.fix):
        raise InputError(
            f"{path} has no Q/DQ pairs, it is a float file: there is nothing to lint; quantize it first, or check its"
            " opset with --jetpack"
        )
    report = LintReport(quantized=quantized, source=_verdict(path, model, config, build))
    fixable = [one for one in report.source.findings if one.fixable or (one.rule == POOL and config.data is not None)]
    if not config.fix or not fixable:
        return report
    if broken := next((one for one in report.source.findings if one.rule == NUMBER), None):
        raise InputError(f"{path}: {broken.node}: {broken.reason}: no repair can be held against it; {broken.remedy}")
    out = config.out or path.with_name(f"{path.stem}.fixed.onnx")
    if out.resolve() == path.resolve():
        raise InputError(f"{out} is the source; name another file with --out")
    if (found := _repaired(path, out, model, config)) is None:
        return report
    repaired, update = found
    return report.model_copy(update={**update, "repaired": _verdict(out, repaired, config, build)})


def checked_model(path: Path) -> Any:
    """The parsed model; raises InputError if it is no valid ONNX file."""
    checker = require("onnx", "onnx").checker
    model = OnnxModel(path).proto
    try:
        checker.check_model(str(path))
    except Exception as err:
        raise InputError(f"{path} is not a valid ONNX model: {_why_invalid(model, err)}") from err
    return model


def _why_invalid(model: Any, err: Exception) -> str:
    said, opset = reason_of(err, _REASON_SHOWN), opset_of(model)
    if opset < AXIS_OPSET and re.match(r"Unrecognized attribute: axis for operator (Q|Deq)uantizeLinear", said):
        return (
            f"it has scales per channel at opset {opset}, they came with {AXIS_OPSET}; export the float model at opset"
            f" {AXIS_OPSET} or later and quantize that, or quantize with one scale for each weight"
        )
    return said


def _repaired(path: Path, out: Path, model: Any, config: LintConfig) -> tuple[Any, dict[str, Any]] | None:
    """(the repaired model, written to `out`, what the report says of it); None if it is no better."""
    given, what = _shown(path, model, config)
    result, notes = repair(model, partial(_ranges, given) if config.data else None)
    if len(problems(lint(result))) >= len(problems(lint(model))):
        return None
    try:
        content = result.SerializeToString(deterministic=True)
    except ValueError as err:
        too_large = f"{path} is larger than an ONNX file without external data can be; it is not repaired"
        raise InputError(too_large) from err
    with written(out) as temporary:
        temporary.write_bytes(content)
        checked_model(temporary)
        found = _compared(path, temporary, model, config, (given, what))
    return result, {"notes": notes, **found}


def _ranges(given: ImageInput, floats: Any, tensors: list[str]) -> dict[str, float]:
    """Clipping bounds of `tensors` by the float graph `floats` on the images of `given`."""
    found, session = {name: Histogram(name) for name in tensors}, GraphSession(floats, "the float graph", tensors)
    for feeds, count in given.batches(_BATCH):
        for name, values in session.run(feeds).items():
            found[name].add(values[:count])
    return {name: amax_from(one, _METHOD) for name, one in found.items()}


def _compared(
    path: Path, repaired: Path, model: Any, config: LintConfig, shown: tuple[ImageInput, str]
) -> dict[str, Any]:
    """What the report says about the two files; raises StageError where they do not compute the same."""
    given, what = shown
    whole = source_of(path) or "FLOAT.onnx"
    advice = f"{_AGAIN}: {advised('edgeres calibrate', whole)}, {advised('edgeres quantize', whole)}"
    close = check_of(path, repaired, without_pairs(model), given)
    needed = close.needed_db if config.tolerance_db is None else config.tolerance_db
    if close.sqnr_db < needed:
        raise StageError(
            f"lint: the repaired {path} computes something else: its outputs agree with the original's to"
            f" {close.sqnr_db:.1f} dB on {close.n} {what}, at least {needed:g} dB are needed; nothing was written;"
            f" {advice if config.data else _OTHER_IMAGES}"
        )
    rounding = coarseness(model, OnnxModel(repaired).proto, given)
    read, excess = rounding.worst or (None, None)
    if read and excess and excess > COARSER_DB:
        raise StageError(
            f"lint: the repaired {path} rounds {_input_name(read)} more coarsely than the original's own ranges ask"
            f" for: {excess:.1f} dB more noise on {what}, at most {COARSER_DB:g} dB can be right; nothing was written;"
            f" {advice}"
        )
    return {
        "images": f"{close.n} {what}",
        "needed_db": needed,
        "sqnr_db": close.sqnr_db,
        "top1_agreement": close.top1 if config.data else None,
        "coarser_db": excess,
        "inputs": len(rounding.excess_db),
        "unknown_inputs": tuple(_input_name(read) for read in rounding.unknown),
    }


def _input_name(read: tuple[str, int]) -> str:
    return f"input {read[1]} of {read[0]}"


def _shown(path: Path, model: Any, config: LintConfig) -> tuple[ImageInput, str]:
    """(the graph's input with the images it is shown, in words what they are)."""
    given = image_input_of(model, str(path), layout=config.layout, size=config.size)
    if config.data is None:
        return given.showing(config.images), "random images"
    spec = _spec(path, given, config)
    dataset = dataset_from(config.data, exif=spec.preprocess.exif)
    split = dataset.train.sample(min(config.images, len(dataset.train)), 0)
    images, _ = next(iter(split.batches(spec, len(split))))
    return given.showing(images), f"images of {dataset.name} train"


def _spec(path: Path, given: ImageInput, config: LintConfig) -> ModelSpec:
    """How images become the file's input: as --like, the file or the options say; InputError if none does."""
    source = OnnxModel(path)
    if config.like is not None:
        spec = model_from(config.like).spec
    elif source.has_card:
        spec = with_input(source, config).spec
    elif len(given.shape) != len("CHW"):
        raise InputError(f"{path} takes no images, {' x '.join(map(str, given.shape))}; leave out --data")
    else:
        channels, height, width = given.shape
        preprocess = preprocess_from(config, UNKNOWN_PREPROCESS, (channels, height, width))
        values = {"family": FROM_ONNX, "variant": path.stem, "num_classes": _ANY_CLASSES, "input_shape": given.shape}
        spec = config_from(ModelSpec, {**values, "preprocess": preprocess}, str(path))
    if not spec.preprocess.is_known:
        raise InputError(
            f"{config.like or path} does not say how an image becomes its input; add --mean, --std, --resize, or name"
            " a model that does with --like"
        )
    if given.shape != spec.input_shape:
        sizes = [" x ".join(map(str, shape)) for shape in (given.shape, spec.input_shape)]
        raise InputError(f"{path} takes {sizes[0]}, images would be {sizes[1]}: give --mean, --std and --resize")
    return spec


def _verdict(path: Path, model: Any, config: LintConfig, build: Build) -> Verdict:
    verdict = Verdict(path=str(path), findings=lint(model, target=config.jetpack))
    if not config.build or (found := build(path, config.targets)) is None:
        return verdict
    return verdict.model_copy(update={"built_by": found[0], "build_error": found[1]})
