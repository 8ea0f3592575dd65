"""Where a network that no name of ours rebuilds comes from, as a graph without weights and its weights.

    net.onnx                      a float ONNX graph of any exporter, batch norms folded or not
    package.module:function       the user's own function () -> nn.Module
    FILE --arch timm/resnet50d    a definition of timm, torchvision or transformers, weights from the file alone

A module is traced in evaluation mode with its batch norms kept, so that the network can be trained on.
"""

from __future__ import annotations

import copy
import io
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
import torch
from torch import Tensor, nn

from edgeres.core.artifacts import OnnxModel
from edgeres.core.errors import InputError, few_of, require
from edgeres.core.onnx_file import INPUT_NAME, OUTPUT_NAME, image_input, is_channels_last, told_task
from edgeres.core.own_code import result_of
from edgeres.core.spec import Preprocess, Task
from edgeres.graph.draft import Draft
from edgeres.graph.names import tidy
from edgeres.graph.normal import normalised, with_batch
from edgeres.graph.plain import logits_in, plain
from edgeres.graph.session import GraphSession
from edgeres.graph.structure import packed, taken_apart, unpacked
from edgeres.models.foreign import ForeignWeights, read_weights
from edgeres.models.graph_net import GraphNet, outputs_of
from edgeres.models.hugging_face import Made, of_folder

if TYPE_CHECKING:
    from edgeres.models.weights import Weights

LIBRARIES = ("timm", "torchvision", "hf")
_TAKEN = frozenset(dir(nn.Module()))
_OPSET = 17
_TRACED_BATCH = 2  # what depends on the number of images is told by it
_MOST_DIFFERENCE = 1e-4  # of the largest output; float32 rounding stays below 1e-5
_USUAL = 224  # pixels a side
_IMAGE_RANK, _COLOURS = 4, 3
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class Brought:
    """A network from outside: its packed graph, (C, H, W) of its images, and what its library or file knows besides.

    `gives` is the shape of what it gives for an image, `told` what that is for by the graph's end; `classes` are names
    that the weights' file holds, of however many.
    """

    structure: str
    weights: Weights
    shape: tuple[int, int, int]
    gives: tuple[int, ...]
    told: Task
    preprocess: Preprocess | None = None
    classes: tuple[str, ...] = ()

    @property
    def outputs(self) -> int:
        """How many numbers it gives for an image."""
        return math.prod(self.gives)

    def task(self, asked: Task | None, where: str) -> Task:
        """What the outputs are; raises InputError if they cannot be what is `asked`."""
        if asked in {"classes", "embedding"} and (len(self.gives) != 1 or self.outputs < 2):
            shape = " x ".join(map(str, self.gives))
            raise InputError(f"--task {asked}: {where} gives {shape} for an image, no row of two numbers or more")
        return asked or self.told


@dataclass(frozen=True)
class Named:
    """What the user names: a file, or a function; a library's definition; weights for a function, which of several."""

    file: Path
    arch: str | None = None
    weights: Path | None = None
    key: str | None = None
    size: int | None = None


def brought(named: Named) -> tuple[Brought, str, list[str]]:
    """(the network, its name, remarks); raises InputError for what is no network, cannot be traced, or does not fit."""
    if named.arch is not None:
        return _defined(named, named.arch)
    if named.file.suffix.lower() == OnnxModel.suffix:
        return from_onnx(OnnxModel(named.file)), named.file.stem, []
    made = result_of(str(named.file), "network")
    if not isinstance(made, nn.Module):
        raise InputError(f"{named.file} must return a torch.nn.Module, got {type(made).__name__}")
    found, where = ForeignWeights({}, [], ()), str(named.file)
    if named.weights is not None:
        where += f" with {named.weights}"
        found = read_weights(named.weights, named.key)
        made = with_state(lambda _: made, found.weights, str(named.weights))
    first = next((one for one in made.parameters() if one.ndim == _IMAGE_RANK), None)
    channels, size = _COLOURS if first is None else int(first.shape[1]), named.size or _USUAL
    network = from_module(made, (channels, size, size), where)
    return replace(network, classes=found.classes), str(named.file).partition(":")[2], found.notes


def _defined(named: Named, arch: str) -> tuple[Brought, str, list[str]]:
    make, (channels, *usual), preprocess, classes = definition(arch)
    found = read_weights(named.file, named.key)
    module = with_state(make, found.weights, f"{named.file}, as {arch},")
    height, width = (named.size, named.size) if named.size else usual
    network = from_module(module, (channels, height, width), str(named.file))
    network = replace(network, preprocess=preprocess, classes=found.classes or classes)
    return network, arch.rstrip("/").rpartition("/")[2], found.notes


def from_onnx(model: OnnxModel) -> Brought:
    """The network of a float ONNX file, which gives what ONNX Runtime makes of the file itself.

    Raises InputError for one that is quantized, damaged, takes no images or computes something else in torch.
    """
    source, where = plain(model, keeps_norms=True), str(model.path)
    found = _brought(source.proto, model.card.spec.input_shape, {}, where)
    name, (batch, *image) = image_input(model.proto, model.path)
    images, logits = _noise(batch or _TRACED_BATCH, found.shape), logits_in(model.proto)
    given = images.movedim(1, -1) if is_channels_last(image) else images
    made = GraphSession(model.proto, where, [logits]).run({name: given.numpy()})
    _check_same(found, images, torch.from_numpy(made[logits]), where)
    return found


def from_module(module: nn.Module, shape: tuple[int, int, int], where: str) -> Brought:
    """The network that `module` is for images of `shape`, traced; its state is left as it was.

    Raises InputError if it cannot be traced, or gives something else than one tensor.
    """
    module = copy.deepcopy(module).cpu().float().eval()
    state = {name: tensor.detach() for name, tensor in module.state_dict().items()}
    traced = _with_every_weight(_traced(module, shape, where), state)
    images = _noise(_TRACED_BATCH + 1, shape)
    expected = _given(module, images, where)
    found = _brought(normalised(traced, keeps_norms=True), shape, state, where)
    _check_same(found, images, expected, where)
    return found


@torch.no_grad()
def _given(module: nn.Module, images: Tensor, where: str) -> Tensor:
    """What the module makes of `images`; raises InputError if that is not one tensor."""
    try:
        found = module(images)
    except Exception as err:  # whatever the user's own forward raises
        reason = str(err).strip().partition("\n")[0] or type(err).__name__
        raise InputError(
            f"{where} was traced with {_TRACED_BATCH} images and fails on {len(images)}: it depends on their number"
            f" ({reason})"
        ) from err
    if isinstance(found, Tensor):
        return found
    kind = type(found).__name__
    kind += f" of {len(found)}" if isinstance(found, tuple | list | dict) else ""
    raise InputError(
        f"{where} gives a {kind}, edgeres takes networks that give one tensor: write a function that returns a module"
        " whose forward returns the one to go by, and import that"
    )


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


def with_state(make: Callable[[int | None], nn.Module], weights: Mapping[str, Tensor], where: str) -> nn.Module:
    """The network with `weights`, whatever prefix their names have and however many classes its classifier has.

    Raises InputError that lists the keys that do not fit.
    """
    module = make(None)
    weights = _without_prefix(weights, module.state_dict())
    others = [key for key, own in module.state_dict().items() if key in weights and weights[key].shape != own.shape]
    if others and all(weights[key].shape[1:] == module.state_dict()[key].shape[1:] for key in others):
        module = make(len(weights[others[0]]))
    own = module.state_dict()
    missing = sorted(key for key in own.keys() - weights.keys() if not key.endswith(_COUNTER))
    shapes = [
        f"{key} is {tuple(weights[key].shape)}, should be {tuple(tensor.shape)}"
        for key, tensor in own.items()
        if key in weights and weights[key].shape != tensor.shape
    ]
    found = [("missing", missing), ("unexpected", sorted(weights.keys() - own.keys())), ("of another shape", shapes)]
    if problems := [f"{len(names)} {what} ({few_of(names)})" for what, names in found if names]:
        raise InputError(f"{where} does not fit: keys {'; '.join(problems)}")
    module.load_state_dict(dict(weights), strict=False)
    return module


def _without_prefix(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """`weights` under the names of `own` where all of them have one prefix more."""
    first = next(iter(own))
    prefixes = {key.removesuffix(first) for key in weights if key.endswith(first)}
    best = max(prefixes, key=lambda prefix: len({prefix + key for key in own} & weights.keys()), default="")
    named = {key.removeprefix(best): tensor for key, tensor in weights.items() if key.startswith(best)}
    return named if len(named) == len(weights) else weights


def _traced(module: nn.Module, shape: tuple[int, int, int], where: str) -> onnx.ModelProto:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter that is to go, and of what tracing holds fixed
        try:
            torch.onnx.export(
                module,
                (torch.zeros(_TRACED_BATCH, *shape),),
                buffer,  # type: ignore[arg-type]  # a file object is taken, the annotation forgets it
                dynamo=False,
                opset_version=_OPSET,
                training=torch.onnx.TrainingMode.PRESERVE,
                do_constant_folding=False,
                input_names=[INPUT_NAME],
            )
        except Exception as err:  # whatever the user's own forward, or the exporter, raises
            reason = str(err).strip().splitlines()[0] if str(err).strip() else type(err).__name__
            size = " x ".join(map(str, shape))
            raise InputError(f"{where} cannot be traced with images of {size}: {reason}") from err
    return onnx.load_from_string(buffer.getvalue())


def _with_every_weight(model: onnx.ModelProto, state: Mapping[str, Tensor]) -> onnx.ModelProto:
    """Weights that the exporter wrote once because they are equal are each their own again."""
    draft = Draft(model)
    for node in [node for node in draft.nodes if node.op_type == "Identity" and node.output[0] in state]:
        draft.remove([node])
        draft.store(node.output[0], state[node.output[0]].numpy())
    return draft.written()


def _brought(model: onnx.ModelProto, shape: tuple[int, int, int], state: Mapping[str, Tensor], where: str) -> Brought:
    if len(model.graph.output) != 1:
        count = len(model.graph.output)
        raise InputError(
            f"{where} gives {count} outputs, edgeres takes networks with one: export it with the one to go by"
        )
    tidied = with_batch(_with_usual_ends(tidy(model)), 1)
    structure, arrays = taken_apart(tidied, _TAKEN)
    weights = {name: torch.from_numpy(array) for name, array in arrays.items()}
    for name in [name for name in weights if name.endswith(".running_mean")]:
        counter = f"{name.rpartition('.')[0]}.{_COUNTER}"
        weights[counter] = state.get(counter, torch.tensor(0))
    gives = outputs_of(structure, shape, where)
    return Brought(packed(structure), weights, shape, gives, told_task(model.graph, gives))


def _noise(batch: int, shape: tuple[int, int, int]) -> Tensor:
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def _check_same(found: Brought, images: Tensor, expected: Tensor, where: str) -> None:
    """Raises InputError if the network makes something else of `images` than what `where` names does, or no numbers."""
    if not expected.isfinite().all():
        keys = [key for key, tensor in found.weights.items() if not tensor.isfinite().all()]
        held = (
            f"in {few_of(keys)} ({len(keys)} of {len(found.weights)} keys)" if keys else "in what it gives for images"
        )
        raise InputError(f"{where}: NaN or infinite values {held}")
    network = GraphNet(unpacked(found.structure), {})
    network.load_state_dict(found.weights)
    try:
        outputs = network.eval()(images)
    except (RuntimeError, ValueError) as err:
        reason = str(err).splitlines()[0]
        raise InputError(
            f"{where} was traced with {_TRACED_BATCH} images and fails on {len(images)}: it depends on their number"
            f" ({reason})"
        ) from err
    difference = float((outputs - expected).abs().max() / expected.abs().max().clamp(min=1e-12))
    if not difference <= _MOST_DIFFERENCE:
        raise InputError(
            f"{where} computes something else than what was made of it: outputs differ by {difference:.2g} of the"
            " largest; it depends on values or on the number of images"
        )


def _with_usual_ends(model: onnx.ModelProto) -> onnx.ModelProto:
    """Input and output bear the names they have in every file of edgeres."""
    draft = Draft(model)
    names = {draft.inputs[0].name: INPUT_NAME, next(iter(draft.outputs)): OUTPUT_NAME}
    draft.swap_names({old: new for old, new in names.items() if old != new})
    written = draft.model
    for value in (*draft.inputs, *written.graph.output):
        value.name = names.get(value.name, value.name)
    draft.outputs = {OUTPUT_NAME}
    return draft.written()


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
