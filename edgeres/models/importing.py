"""`edgeres import`: a network trained elsewhere becomes an edgeres checkpoint, or is refused whole.

weights of a network of `edgeres ls models`        rebuilt by name
net.onnx, package.module:function, --arch timm/... brings its own structure (`models.sources`)
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from edgeres.core.amounts import counted
from edgeres.core.artifacts import CARD_KEY, Checkpoint, OnnxModel, safetensors_header
from edgeres.core.config import config_from
from edgeres.core.errors import InputError, few_of, require
from edgeres.core.files import sha256_of
from edgeres.core.input_options import FeedOptions, Size, check_crop, check_feed, preprocess_from, sides_of
from edgeres.core.names import function_meant, is_function_name
from edgeres.core.spec import ModelSpec, Preprocess, Task
from edgeres.core.stage import Recorder, StageResult
from edgeres.models import spec_from_arch
from edgeres.models.class_names import names_in_list
from edgeres.models.contents import check_content
from edgeres.models.family import CIFAR_INPUT, IMAGENET_INPUT, RESIZE_RATIO, Ordering
from edgeres.models.recognise import Recognised, check_recognised, other_names, recognised
from edgeres.models.resnet_family import RESNET

if TYPE_CHECKING:
    from edgeres.models.sources import Brought
    from edgeres.models.weights import Weights

_COLOURS = 3
_STRANGE = re.compile(r"layer\d+\.\d+\.(?!conv\d*\.|bn\w*\.|downsample\.)")  # what no module here calls its own
_SMALL = 64  # pixels a side up to which images have the network's size as they are
UNNAMED = "class names were not given"  # begins the warning on their order
_OF_THE_INPUT = (*FeedOptions.model_fields, "size", "labels")


class ImportConfig(FeedOptions):
    """What a foreign file does not say about itself."""

    unsaid: ClassVar[frozenset[str]] = FeedOptions.unsaid | {"weights"}

    file: Path = Field(
        description="weights (.pt, .pth, .ckpt, .pt2, .safetensors), a network (.onnx), or package.module:function"
    )
    arch: str | None = Field(
        None,
        description="resnet20, resnet50, ... (edgeres ls models), timm/NAME, torchvision/NAME or hf/FOLDER; default:"
        " told by keys and shapes",
    )
    weights: Path | None = Field(None, description="what the network of a function is filled with; default: its own")
    classes: int | None = Field(None, gt=1, description="number of classes; default: the classifier's rows")
    task: Task | None = Field(
        None, description="what a network that brings its graph gives; default: told by the output and what makes it"
    )
    labels: Path | None = Field(None, description="class names in the order of the outputs: one a line, or JSON")
    size: Size | None = Field(
        None, description="of the input in pixels, 96 or 48x320 (height first); of an ONNX file where it leaves it open"
    )
    shortcut: str | None = Field(None, description="A, B or C; default: told by the keys")
    ordering: Ordering = Field("original", description="order of batch norm, activation and addition")
    key: str | None = Field(None, description="which state dict or network, if the file holds several")

    def check(self) -> None:
        """The file is there and the network exists."""
        weights = self.weights if self.is_function else self.file
        if weights is not None and not weights.is_file():
            what = "is a folder" if weights.is_dir() else "does not exist"
            raise InputError(f"{weights} {what}{function_meant(str(weights))}")
        if weights is not None and not self.is_onnx:
            check_content(weights)
        self._check_graph()
        check_feed(self)
        check_crop(self.resize, None if self.size is None else max(sides_of(self.size)))
        if self.arch is not None and not self.is_defined:
            spec_from_arch(self.arch, num_classes=2)

    @property
    def is_function(self) -> bool:
        """Whether a function is named, and no file."""
        return is_function_name(str(self.file)) and not self.file.exists()

    @property
    def is_onnx(self) -> bool:
        """Whether the network comes as an ONNX file."""
        return self.file.suffix.lower() == OnnxModel.suffix

    @property
    def is_defined(self) -> bool:
        """Whether a library says what the network is."""
        return self.arch is not None and "/" in self.arch

    @property
    def brings_structure(self) -> bool:
        """Whether no name of ours rebuilds the network."""
        return self.is_function or self.is_onnx or self.is_defined

    def _check_graph(self) -> None:
        """Raises InputError for an option that says nothing of what is imported."""
        if self.weights is not None and not self.is_function:
            raise InputError("--weights fills the network of a package.module:function; leave it out")
        if self.task is not None and not self.brings_structure:
            raise InputError(f"--task {self.task}: {self.file} is a network of classes by its name; leave it out")
        needless = {"shortcut", "ordering"} | (
            {"arch", "key"} if self.is_onnx else {"arch"} if self.is_function else set()
        )
        given = sorted(needless & self.model_fields_set) if self.brings_structure else []
        if given and getattr(self, given[0]) is not None:
            raise InputError(f"{self.file}: the network brings its structure along; leave out --{given[0]}")


def import_checkpoint(source: None, config: ImportConfig, out_dir: Path) -> StageResult[Checkpoint]:
    """Writes out_dir/model.safetensors; raises InputError that lists every key that does not fit."""
    del source
    require("torch", "train")
    from edgeres.models.foreign import read_weights, translated, with_batch_counters
    from edgeres.models.weights import save_checkpoint

    recorder = Recorder("import", config, None)
    if config.brings_structure:
        return _with_structure(config, recorder, out_dir)
    if is_ours(config.file):
        return _copied(config, recorder, out_dir)
    found = read_weights(config.file, config.key)
    network, notes = translated(found.weights, str(config.file))
    weights = with_batch_counters(network)
    spec = _spec_of(weights, found.classes, config, notes)
    _check_fits(weights, spec, config)
    recorder.notes += found.notes + notes
    recorder.warnings += _assumed(config, spec, f"as {spec.variant} has them", _own_of(found.feed, config, spec))
    recorder.results |= {"file": str(config.file), "file_sha256": sha256_of(config.file), "keys": len(weights)}
    output = save_checkpoint(weights, spec, out_dir / "model.safetensors", stage="import")
    return StageResult(output, recorder.finish(output))


def _own_of(feed: tuple[tuple[float, ...], ...], config: ImportConfig, spec: ModelSpec) -> str:
    """The options that say mean and std as the weights' file holds them, where nobody did and they are others."""
    if config.mean is not None or {len(one) for one in feed} != {spec.input_shape[0]}:
        return ""
    most = 255 if max(feed[0]) > 1 else 1  # of a pixel
    own = [",".join(f"{x / most:.6g}" for x in one) for one in feed]
    usual = [",".join(f"{x:.6g}" for x in one) for one in (spec.preprocess.mean, spec.preprocess.std)]
    return "" if own == usual else f"--mean {own[0]} --std {own[1]}"


def _assumed(config: ImportConfig, spec: ModelSpec, why: str, own: str = "") -> list[str]:
    """What was concluded of the input because nobody said it, and `why`: by the network's name, or its input's size.

    `own`: options by which mean and std are those that the weights' file holds.
    """
    warnings, size, resize = [], " x ".join(map(str, spec.input_shape[1:])), spec.preprocess.resize
    if config.mean is None or own:
        others = "if the network was trained with others its accuracy suffers silently, set --mean and --std"
        warnings.append(
            f"mean and std were not given: assumed {spec.preprocess.mean} / {spec.preprocess.std}, {why};"
            f" {f'the file holds others, to take them: {own}' if own else others}"
        )
    how = f"shorter side to {resize}, then cropped" if resize else "all images have it"
    if config.is_onnx and config.resize is None and config.fit is None:
        warnings.append(
            f"how images come to the input's {size} was not given: assumed {how}; if it is otherwise, set --resize or"
            " --fit"
        )
    if not config.is_onnx and config.size is None and config.fit is None:
        warnings.append(
            f"the input's size was not given: assumed {size} ({how}); if the network was trained at another, set --size"
        )
    if not spec.classes and spec.task == "classes":
        warnings.append(
            f"{UNNAMED}: outputs are taken to be in the order of the data set's classes, where it has some (for"
            " folders the alphabet's); if they are not, name them with --labels"
        )
    return warnings


def _with_structure(config: ImportConfig, recorder: Recorder, out_dir: Path) -> StageResult[Checkpoint]:
    """A network that no name of ours rebuilds, with its graph in the checkpoint."""
    require("onnx", "onnx")
    from edgeres.models.graph_family import chain_of
    from edgeres.models.sources import brought
    from edgeres.models.weights import save_checkpoint

    network, name, notes = brought(config.file, config.arch, config.weights, key=config.key, size=config.size)
    shape = network.shape
    task = network.task(config.task, str(config.file))
    for option in ("classes", "labels") if task != "classes" else ():
        if getattr(config, option) is not None:
            raise InputError(f"--{option} is for scores of classes, {config.file} gives {_told(network, task)}")
    if config.classes not in {None, network.outputs}:
        raise InputError(f"--classes {config.classes}, but {config.file} has {network.outputs} outputs")
    known = network.preprocess
    base = known or _for_channels(_usual_for(shape), shape[0])
    preprocess = preprocess_from(config, base, shape, config.size if network.is_sized else None)
    classes = _class_names(config, network.classes, network.outputs, recorder.notes) if task == "classes" else ()
    spec = network.spec(name, str(config.file), task=task, preprocess=preprocess, classes=classes)
    chain = chain_of(spec)
    recorder.notes += [*notes, *filter(None, [network.left_out])]
    if task != "classes":
        how = "as --task says" if config.task else f"told by {network.told_by}; --task says otherwise"
        how = "judged by the mean of their relative errors" if network.parts else how
        recorder.notes.append(f"gives {_told(network, task)} for an image, {how}")
    if names := [link.name for link in chain.links]:
        recorder.notes.append(f"{counted(len(names), 'residual module')} found in the graph: {_few(names)}")
    for why in dict.fromkeys(chain.others.values()):
        sums = [name for name, other in chain.others.items() if other == why]
        recorder.notes.append(f"no module that can be dropped: {few_of(sums)} ({len(sums)} in all), {why}")
    if not chain.links:
        recorder.warnings.append("no residual module was found that can be dropped: nothing of it can be pruned")
    if config.is_function and config.weights is None:
        said_of = recorder.warnings if _is_fresh(network.weights) else recorder.notes
        said_of.append(f"weights are those that {config.file} gives itself; if it loads none, add --weights FILE")
    said = config if known is None else config.model_copy(update={"mean": known.mean, "fit": known.fit})
    like = f"{'CIFAR-10' if shape[1] <= _SMALL else 'ImageNet'}'s, by the input's {shape[1]} x {shape[2]}"
    recorder.warnings += _assumed(
        said, spec, like if known is None else f"as {config.arch} has them", _own_of(network.feed, config, spec)
    )
    hashed = config.weights if config.is_function else config.file
    recorder.results |= {"file": str(config.file), "keys": len(network.weights)}
    recorder.results |= {} if config.weights is None else {"weights": str(config.weights)}
    recorder.results |= {} if hashed is None else {"file_sha256": sha256_of(hashed)}
    output = save_checkpoint(
        network.weights, spec, out_dir / "model.safetensors", stage="import", parent=network.parent
    )
    return StageResult(output, recorder.finish(output))


def _is_fresh(weights: Weights) -> bool:
    """Whether its batch norms have seen no image, as where nothing was trained or loaded."""
    means = [tensor for key, tensor in weights.items() if key.endswith("running_mean")]
    return bool(means) and not any(tensor.any() for tensor in means)


def _told(network: Brought, task: Task) -> str:
    if network.parts:
        return f"{len(network.parts)} outputs, {network.gives_text}"
    return f"an embedding of {network.gives_text} numbers" if task == "embedding" else f"tensors, {network.gives_text}"


def _few(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{names[0]}, {names[1]}, ... {names[-1]}"


def _check_fits(weights: Weights, spec: ModelSpec, config: ImportConfig) -> None:
    """Raises InputError that lists the keys that do not fit, and says what they look like if not what was named."""
    from edgeres.models.weights import check_weights

    try:
        check_weights(weights, spec, str(config.file))
    except InputError as err:
        seen = recognised({key: tuple(tensor.shape) for key, tensor in weights.items()})
        if seen is not None and seen.called not in {config.arch, spec.variant}:
            raise InputError(f"{err}; it looks like {seen.called}") from err
        if names := sorted(filter(_STRANGE.match, weights)):
            raise InputError(f"{err}; its modules have {other_names(names, str(config.file))}") from err
        raise


def _copied(config: ImportConfig, recorder: Recorder, out_dir: Path) -> StageResult[Checkpoint]:
    """Our own file again, with another preprocessing or other class names if they are given."""
    from edgeres.models.weights import load_weights, save_checkpoint

    original = Checkpoint(config.file)
    _check_options(config, original.spec)
    spec = _fed_as(config, original.spec)
    output = save_checkpoint(
        load_weights(original), spec, out_dir / "model.safetensors", stage="import", parent=original.sha256
    )
    recorder.notes.append(f"a copy of {config.file}, made by edgeres {original.card.stage}")
    if spec.dropped:
        lacks = f"it lacks {counted(len(spec.dropped), 'module')} already, {few_of(spec.dropped)}"
        recorder.notes.append(f"{lacks}: what that cost is told if the whole network was imported into the run first")
    if spec != original.spec:
        recorder.notes.append(f"weights as they were; set anew: {', '.join(_said(config))}")
    return StageResult(output, recorder.finish(output))


def _said(config: ImportConfig) -> list[str]:
    return [f"--{name}" for name in _OF_THE_INPUT if getattr(config, name) is not None]


def _fed_as(config: ImportConfig, spec: ModelSpec) -> ModelSpec:
    """`spec` with the preprocessing, input size and class names of `config` where it gives some."""
    if not _said(config):
        return spec
    channels, *own = spec.input_shape
    sides = own if config.size is None else [*sides_of(config.size)]
    anew = None if sides == own else config.size
    values: dict[str, Any] = {
        **dict(spec),
        "preprocess": preprocess_from(config, spec.preprocess, spec.input_shape, anew),
        "input_shape": (channels, *sides),
        "classes": names_in_list(config.labels, spec.num_classes) if config.labels else spec.classes,
    }
    return config_from(ModelSpec, values, str(config.file))


def is_ours(path: Path) -> bool:
    """Whether edgeres wrote the file, damaged or not."""
    return path.suffix == Checkpoint.suffix and CARD_KEY in safetensors_header(path).get("__metadata__", {})


def _check_options(config: ImportConfig, spec: ModelSpec) -> None:
    """Raises InputError for an option that would change what the network of the checkpoint is."""
    given = sorted(config.model_fields_set - {"file", "arch", *_OF_THE_INPUT})
    if config.arch not in {None, spec.variant}:
        given = ["arch", *given]
    if given:
        names = ", ".join("--" + name for name in given)
        raise InputError(
            f"{config.file} is an edgeres checkpoint already ({spec.variant}, stored in it); leave out {names}"
        )


def _spec_of(weights: Weights, classes: tuple[str, ...], config: ImportConfig, notes: list[str]) -> ModelSpec:
    """The network of `weights`; `classes` are names that the file holds, `notes` gets what was concluded."""
    rows = len(weights["fc.weight"])
    if config.classes not in {None, rows}:
        raise InputError(f"--classes {config.classes}, but the classifier of {config.file} has {rows} outputs")
    arch, options = _arch_of(weights, config, notes)
    base = spec_from_arch(arch, num_classes=rows)
    shape, preprocess = CIFAR_INPUT if "stem" in options else (base.input_shape, base.preprocess)
    channels = _input_channels(weights)
    return spec_from_arch(
        arch,
        num_classes=rows,
        preprocess=preprocess_from(config, _for_channels(preprocess, channels), (channels, *shape[1:]), config.size),
        input_shape=(channels, *(shape[1:] if config.size is None else sides_of(config.size))),
        classes=_class_names(config, classes, rows, notes),
        options=options,
    )


def _class_names(config: ImportConfig, own: tuple[str, ...], rows: int, notes: list[str]) -> tuple[str, ...]:
    """Those of --labels, or the file's `own` if they are as many as the outputs; `notes` gets which."""
    if config.labels:
        return names_in_list(config.labels, rows)
    if len(own) == rows:
        notes.append(f"class names are the file's own: {few_of(own, 3)}")
        return own
    if own:
        notes.append(
            f"the file's {len(own)} class names ({few_of(own, 3)}) are left out: the network has {rows} outputs"
        )
    return ()


def _arch_of(weights: Weights, config: ImportConfig, notes: list[str]) -> tuple[str, dict[str, str | int | float]]:
    """The variant and its options, from the keys and shapes where the user does not say."""
    from edgeres.models.foreign import shortcut_option

    shapes = {key: tuple(tensor.shape) for key, tensor in weights.items()}
    if config.arch is None:
        seen = check_recognised(shapes, str(config.file))
        notes.append(f"recognised as {seen.called} by keys and shapes; if it is another, name it with --arch")
    else:
        seen = recognised(shapes) or Recognised(None, "")
    arch = config.arch or seen.arch or ""
    options = dict(seen.options) if arch == seen.arch else {}
    spec = spec_from_arch(arch, num_classes=2, options=options)
    shortcut = config.shortcut or shortcut_option(weights)
    if spec.family == "resnet" and shortcut != RESNET.layout(spec).shortcut:
        options["shortcut"] = shortcut
    if config.ordering != "original":
        options["ordering"] = config.ordering
    return arch, options


def _input_channels(weights: Weights) -> int:
    stem = weights.get("conv1.weight")
    return int(stem.shape[1]) if stem is not None and stem.ndim == 4 else _COLOURS


def _usual_for(shape: tuple[int, int, int]) -> Preprocess:
    """How images of (C, H, W) usually come to a network: small ones as they are, others cropped as on ImageNet.

    Nothing is usual above the 256 pixels that images are resized to there.
    """
    usual = IMAGENET_INPUT[1]
    resize = min(usual.resize or 0, round(min(shape[1:]) * RESIZE_RATIO))
    return CIFAR_INPUT[1] if shape[1] <= _SMALL else usual.model_copy(update={"resize": resize})


def _for_channels(base: Preprocess, channels: int) -> Preprocess:
    """`base`, which is of colours, with their mean for each of `channels` if these are others."""
    if channels == _COLOURS:
        return base
    return base.model_copy(update={name: (sum(getattr(base, name)) / _COLOURS,) * channels for name in ("mean", "std")})
