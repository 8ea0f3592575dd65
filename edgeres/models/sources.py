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
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from edgeres.core.artifacts import OnnxModel
from edgeres.core.config import config_from
from edgeres.core.distances import difference_of, split
from edgeres.core.errors import InputError, few_of
from edgeres.core.input_options import sides_of
from edgeres.core.names import result_of
from edgeres.core.onnx_file import (
    INPUT_NAME,
    OUTPUT_NAME,
    check_floats,
    check_once,
    image_input,
    is_channels_last,
    told_task,
)
from edgeres.core.spec import TRACED, ModelSpec, Preprocess, Task
from edgeres.graph.draft import Draft
from edgeres.graph.names import tidy, with_usual_ends
from edgeres.graph.normal import normalised, with_batch
from edgeres.graph.plain import ends_in, plain
from edgeres.graph.session import GraphSession
from edgeres.graph.structure import packed, taken_apart, unpacked
from edgeres.graph.view import scope_of
from edgeres.models.foreign import ForeignWeights, read_weights
from edgeres.models.graph_net import GraphNet, first_line_of, outputs_of
from edgeres.models.libraries import definition
from edgeres.models.network import ROUNDINGS, rounding_in
from edgeres.models.weighted_layers import OPERATIONS, Operation
from edgeres.models.weights import Weights, misfits

_TAKEN = frozenset(dir(nn.Module()))
_OPSET = 17
_TRACED_BATCH = 2  # what depends on the number of images is told by it
_MOST_DIFFERENCE = 1e-4  # of the largest output; float32 rounding stays below 1e-5
_USUAL = 224  # pixels a side
_IMAGE_RANK, _COLOURS = 4, 3
_COUNTER = "num_batches_tracked"
_acts = re.compile("drop|stochastic", re.IGNORECASE).search  # in training only: Dropout2d, DropPath, StochasticDepth


@dataclass(frozen=True)
class Brought:
    """A network from outside: its packed graph, (C, H, W) of its images, and what its library or file knows besides.

    `gives` is the shape of what it gives for an image, by output, `told` what that is for by its own file, or else the
    graph's end; `classes` are names that the weights' file holds, of however many, `feed` its mean and std; `parent` is
    a file of edgeres; `left_out` is a remark on what it does in training only, or empty; `is_sized`: by --size, not by
    its own file.
    """

    structure: str
    weights: Weights
    shape: tuple[int, int, int]
    gives: dict[str, tuple[int, ...]]
    told: Task
    preprocess: Preprocess | None = None
    classes: tuple[str, ...] = ()
    feed: tuple[tuple[float, ...], ...] = ()
    parent: str | None = None
    left_out: str = ""
    is_sized: bool = True

    @property
    def outputs(self) -> int:
        """How many numbers it gives for an image."""
        return sum(map(math.prod, self.gives.values()))

    @property
    def told_by(self) -> str:
        """Who told what the outputs are."""
        return "the file" if self.parent else "what makes it"

    @property
    def parts(self) -> tuple[tuple[str, int], ...]:
        """Of several outputs each one's name and how many of them are its own."""
        return tuple((name, math.prod(shape)) for name, shape in self.gives.items()) if len(self.gives) > 1 else ()

    @property
    def gives_text(self) -> str:
        """`8 x 4 x 4`, of several outputs `boxes 4 x 100, scores 10 x 100`."""
        shapes = {name: " x ".join(map(str, shape)) for name, shape in self.gives.items()}
        return ", ".join(f"{name} {one}" if self.parts else one for name, one in shapes.items())

    @property
    def is_row(self) -> bool:
        """Whether it gives one row of two numbers or more."""
        return [len(shape) for shape in self.gives.values()] == [1] and self.outputs > 1

    def task(self, asked: Task | None, where: str) -> Task:
        """What the outputs are; raises InputError if they cannot be what is `asked`."""
        if asked in {"classes", "embedding"} and not self.is_row:
            raise InputError(
                f"--task {asked}: {where} gives {self.gives_text} for an image, no row of two numbers or more"
            )
        return asked or self.told

    def spec(
        self, name: str, where: str, *, task: Task, preprocess: Preprocess, classes: tuple[str, ...] = ()
    ) -> ModelSpec:
        """What a checkpoint says of it; raises InputError, with `where`, for what does not go together."""
        values = {
            "family": TRACED,
            "variant": name,
            "num_classes": self.outputs,
            "task": task,
            "parts": self.parts,
            "input_shape": self.shape,
            "preprocess": preprocess,
            "classes": classes,
            "structure": self.structure,
        }
        return config_from(ModelSpec, values, where)


def brought(
    file: Path, arch: str | None, weights: Path | None, *, key: str | None, size: str | int | None
) -> tuple[Brought, str, list[str]]:
    """(the network, its name, remarks): of a `file` or function, whose `weights` may lie elsewhere, or as `arch` says.

    Raises InputError for what is no network, cannot be traced, or does not fit.
    """
    if arch is not None:
        return _defined(file, arch, key=key, size=size)
    if file.suffix.lower() == OnnxModel.suffix:
        model = OnnxModel(file)
        is_sized = _sized(model, size)
        found = replace(from_onnx(model), is_sized=is_sized)
        said = f"how images become the input is as {file} says, where no option says otherwise"
        return found, file.stem, [said] if found.preprocess else []
    made = result_of(str(file), "network")
    if not isinstance(made, nn.Module):
        raise InputError(f"{file} must return a torch.nn.Module, got {type(made).__name__}")
    filled, where = ForeignWeights({}, [], ()), str(file)
    if weights is not None:
        where += f" with {weights}"
        filled = read_weights(weights, key)
        made = with_state(lambda _: made, filled.weights, str(weights))
    first = next((one for one in made.parameters() if one.ndim == _IMAGE_RANK), None)
    channels = _COLOURS if first is None else int(first.shape[1])
    network = from_module(made, (channels, *sides_of(size or _USUAL)), where)
    return replace(network, classes=filled.classes, feed=filled.feed), str(file).partition(":")[2], filled.notes


def _defined(file: Path, arch: str, *, key: str | None, size: str | int | None) -> tuple[Brought, str, list[str]]:
    make, (channels, *usual), preprocess, classes = definition(arch)
    found = read_weights(file, key)
    module = with_state(make, found.weights, f"{file}, as {arch},")
    height, width = sides_of(size) if size else usual
    network = from_module(module, (channels, height, width), str(file))
    network = replace(network, preprocess=preprocess, classes=found.classes or classes, feed=found.feed)
    return network, arch.rstrip("/").rpartition("/")[2], found.notes


def _sized(model: OnnxModel, size: str | int | None) -> bool:
    """Whether `model` left sides open, which are now of `size`, in place; InputError if its graph has another size."""
    if size is None:
        return False
    graph = model.proto.graph
    stored = {tensor.name for tensor in graph.initializer}
    inputs = [value.type.tensor_type.shape.dim for value in graph.input if value.name not in stored]
    is_open = any(not side.dim_value for dims in inputs for side in dims[1:])
    for _, *image in inputs:
        first = 0 if is_channels_last([side.dim_value for side in image]) else 1
        for side, given in zip(image[first : first + 2], sides_of(size), strict=False):
            if side.dim_value not in {0, given} and (isinstance(size, str) or not is_open):
                raise InputError(f"--size {size}: {model.path} has {side.dim_value} where that says {given}")
            side.dim_value = side.dim_value or given
    if is_open:
        del graph.value_info[:]
    return is_open


def from_onnx(model: OnnxModel) -> Brought:
    """The network of a float ONNX file, which gives what ONNX Runtime makes of the file itself.

    Raises InputError for one that is quantized, in half precision or damaged, takes no images, or computes something
    else in torch.
    """
    source, where = plain(model, keeps_norms=True), str(model.path)
    if "int8" in model.precision or model.has_card:  # of another tool a float16 constant may be cast
        model.check_float()
    found = _brought(source.proto, model.card.spec.input_shape, {}, where)
    name, (batch, *image) = image_input(model.proto, model.path)
    images, ends = _noise(batch or _TRACED_BATCH, found.shape), ends_in(model.proto)
    given = images.movedim(1, -1) if is_channels_last(image) else images
    made = GraphSession(model.proto, where, ends).run({name: given.numpy()})
    _check_same(found, images, [torch.from_numpy(made[end]) for end in ends], where)
    found = replace(found, left_out=_left_out(node.op_type for node in model.proto.graph.node))
    return _with_card(found, model) if model.has_card else found


def _with_card(found: Brought, model: OnnxModel) -> Brought:
    """`found` with what the file's card says of it; it is of another network if the graph was changed since."""
    spec = model.spec
    preprocess = spec.preprocess if spec.preprocess.is_known else None
    fits = spec.num_classes == found.outputs and (spec.task == "tensors" or found.is_row)
    told = spec.task if fits else found.told
    return replace(found, preprocess=preprocess, classes=spec.classes, told=told, parent=model.sha256)


def from_module(module: nn.Module, shape: tuple[int, int, int], where: str) -> Brought:
    """The network that `module` is for images of `shape`, traced; its state is left as it was.

    Raises InputError if it cannot be traced, or gives something else than tensors.
    """
    module = copy.deepcopy(module).cpu().float().eval()
    state = {name: tensor.detach() for name, tensor in module.state_dict().items()}
    traced = _with_every_weight(_traced(module, shape, where), state)
    images = _noise(_TRACED_BATCH + 1, shape)
    expected = [tensor for _, tensor in _given(module, images, where)]
    found = _brought(normalised(traced, keeps_norms=True), shape, state, where)
    _check_same(found, images, expected, where)
    ends = {one: type(one).__name__ for one in module.modules() if not list(one.children())}
    kinds = [kind for one, kind in ends.items() if _acts(kind) and getattr(one, "p", getattr(one, "drop_prob", True))]
    return replace(found, left_out=_left_out(kinds))


def _left_out(kinds: Iterable[str]) -> str:
    count = Counter(filter(_acts, kinds))
    named = ", ".join(f"{kind} ({times})" for kind, times in count.items())
    return f"left out, as it acts in training only: {named}" if named else ""


@torch.no_grad()
def _given(module: nn.Module, images: Tensor, where: str) -> list[tuple[str, Tensor]]:
    """What the module makes of `images`, by name; raises InputError if that is something else than tensors."""
    try:
        return list(_tensors(module(images), "", where))
    except InputError:
        raise
    except Exception as err:  # whatever the user's own forward raises
        raise _fails_on(images, where, err) from err


def _fails_on(images: Tensor, where: str, err: Exception) -> InputError:
    return InputError(
        f"{where} was traced with {_TRACED_BATCH} images and fails on {len(images)}: it depends on their number"
        f" ({first_line_of(err)})"
    )


def _tensors(given: Any, name: str, where: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a tuple, list or dict in another: called as their keys are, or `output_0` by their places."""
    if isinstance(given, Tensor):
        yield name or OUTPUT_NAME, given
    elif isinstance(given, Mapping | tuple | list):
        named = given._asdict() if hasattr(given, "_asdict") else given
        pairs = named.items() if isinstance(named, Mapping) else ((f"output_{at}", one) for at, one in enumerate(named))
        for key, one in pairs:
            yield from _tensors(one, f"{name}.{key}" if name else str(key), where)
    elif given is not None:
        raise InputError(
            f"{where} gives a {type(given).__name__}{f' as {name!r}' if name else ''}, edgeres takes tensors: write a"
            " function that returns a module whose forward returns those to go by, and import that"
        )


def with_state(make: Callable[[int | None], nn.Module], weights: Mapping[str, Tensor], where: str) -> nn.Module:
    """The network with `weights`, whatever prefix their names have and however many classes its classifier has.

    Raises InputError that lists the keys that do not fit.
    """
    module = make(None)
    weights = _without_prefix(weights, module.state_dict())
    others = [key for key, own in module.state_dict().items() if key in weights and weights[key].shape != own.shape]
    if others and all(weights[key].shape[1:] == module.state_dict()[key].shape[1:] for key in others):
        module = make(len(weights[others[0]]))
    own = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    wanted = {key: shape for key, shape in own.items() if key in weights or not key.endswith(_COUNTER)}
    if problems := misfits(weights, wanted):
        raise InputError(f"{where} does not fit: keys {problems}")
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
    buffer, forward, images = io.BytesIO(), module.forward, torch.zeros(_TRACED_BATCH, *shape)
    module.forward = lambda x: tuple(one for _, one in _tensors(forward(x), "", where))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter that is to go, and of what tracing holds fixed
        try:
            with torch.no_grad():
                names = [name for name, _ in _tensors(forward(images), "", where)]
            check_once([INPUT_NAME, *names], where)
            torch.onnx.export(
                module,
                (images,),
                buffer,  # type: ignore[arg-type]  # a file object is taken, the annotation forgets it
                dynamo=False,
                opset_version=_OPSET,
                training=torch.onnx.TrainingMode.PRESERVE,
                do_constant_folding=False,
                input_names=[INPUT_NAME],
            )
        except InputError:
            raise
        except Exception as err:  # whatever the user's own forward, or the exporter, raises
            size = " x ".join(map(str, shape))
            raise InputError(f"{where} cannot be traced with images of {size}: {first_line_of(err)}") from err
    model = onnx.load_from_string(buffer.getvalue())
    operations = {path: one for path, one in module.named_modules() if isinstance(one, Operation)}
    for node in model.graph.node:
        if (one := operations.get(path := scope_of(node.name))) is not None:
            node.name = path.partition(OPERATIONS)[0] + one.name
    for value, name in zip(model.graph.output, names if len(names) > 1 else (), strict=False):
        model.graph.node.append(onnx.helper.make_node("Identity", [value.name], [name], name=f"output {name}"))
        value.name = name  # which the exporter does not take if it is a number
    return model


def _with_every_weight(model: onnx.ModelProto, state: Mapping[str, Tensor]) -> onnx.ModelProto:
    """Weights that the exporter wrote once because they are equal are each their own again."""
    draft = Draft(model)
    for node in [node for node in draft.nodes if node.op_type == "Identity" and node.output[0] in state]:
        draft.remove([node])
        draft.store(node.output[0], state[node.output[0]].numpy())
    return draft.written()


def _brought(model: onnx.ModelProto, shape: tuple[int, int, int], state: Mapping[str, Tensor], where: str) -> Brought:
    check_floats(model.graph, where)
    tidied = with_batch(with_usual_ends(tidy(model)), 1)
    del tidied.metadata_props[:]  # what it says is of that file
    structure, arrays = taken_apart(tidied, _TAKEN)
    weights = {name: torch.from_numpy(array) for name, array in arrays.items()}
    for name in [name for name in weights if name.endswith(".running_mean")]:
        counter = f"{name.rpartition('.')[0]}.{_COUNTER}"
        weights[counter] = state.get(counter, torch.tensor(0))
    gives = outputs_of(structure, shape, where)
    if len(gives) > 1:
        for value in structure.graph.output:
            value.CopyFrom(
                onnx.helper.make_tensor_value_info(value.name, onnx.TensorProto.FLOAT, [1, *gives[value.name]])
            )
    return Brought(packed(structure), weights, shape, gives, told_task(model.graph, next(iter(gives.values()))))


def _noise(batch: int, shape: tuple[int, int, int]) -> Tensor:
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def _check_same(found: Brought, images: Tensor, expected: Sequence[Tensor], where: str) -> None:
    """Raises InputError if the network makes something else of `images` than what `where` names does, or no numbers."""
    if not all(one.isfinite().all() for one in expected):
        keys = [key for key, tensor in found.weights.items() if not tensor.isfinite().all()]
        held = (
            f"in {few_of(keys)} ({len(keys)} of {len(found.weights)} keys)" if keys else "in what it gives for images"
        )
        raise InputError(f"{where}: NaN or infinite values {held}")
    network = GraphNet(unpacked(found.structure))
    network.load_state_dict(found.weights)
    sizes = [size for _, size in found.parts]
    try:
        outputs = split(network.eval()(images), sizes)
    except (RuntimeError, ValueError) as err:
        raise _fails_on(images, where, err) from err
    difference = difference_of([one.numpy() for one in outputs], [one.numpy() for one in expected])
    if not difference <= _MOST_DIFFERENCE and not difference <= ROUNDINGS * rounding_in(network, images, sizes):
        raise InputError(
            f"{where} computes something else than what was made of it: outputs differ by {difference:.2g} of the"
            " largest; it depends on values or on the number of images"
        )
