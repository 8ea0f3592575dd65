"""An ONNX file as edgeres works on it; of another tool: plain operators, fed (N, C, H, W), ending in logits.

(N, H, W, C) -> Transpose ->     the graph takes (N, C, H, W)
-> Softmax                       kept aside, as logits are compared and improved; put back in what is written
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from edgeres.core.artifacts import OnnxModel
from edgeres.core.errors import InputError, reason_of, require
from edgeres.core.onnx_file import image_input, is_channels_last
from edgeres.core.spec import Card

if TYPE_CHECKING:
    import onnx

_TO_CHANNELS_FIRST = [0, 3, 1, 2]


@dataclass(frozen=True)
class PlainModel(OnnxModel):
    """`original` with another graph; everything else, its card and hash included, is the file's."""

    original: OnnxModel | None = None
    keeps_norms: bool = False
    rewrite: Callable[[onnx.ModelProto], onnx.ModelProto] | None = None

    @cached_property
    def proto(self) -> Any:
        """Computes the logits of the file (do not change it)."""
        model = _without_softmax(self._whole)
        return model if self.rewrite is None else self.rewrite(model)

    @cached_property
    def card(self) -> Card:
        """The file's."""
        assert self.original is not None
        return self.original.card

    @property
    def rewritten(self) -> list[str]:
        """Names of the nodes that `rewrite` made another operator of."""
        before = {node.name: node.op_type for node in self._whole.graph.node}
        return [node.name for node in self.proto.graph.node if before.get(node.name, node.op_type) != node.op_type]

    @property
    def softmax(self) -> onnx.NodeProto | None:
        """The last node, if it is one."""
        return last_softmax(self._whole)

    @cached_property
    def _whole(self) -> Any:
        assert self.original is not None
        if not _is_another_tools(self.original):
            return self.original.proto
        _ = self.card  # what takes no images is refused before anything is rewritten
        from edgeres.graph.normal import normalised

        try:
            _check(self.original.proto)
            return _channels_first(normalised(self.original.proto, keeps_norms=self.keeps_norms), self)
        except InputError as err:
            raise err if str(self.path) in str(err) else InputError(f"{self.path}: {err}") from err


def plain(
    model: OnnxModel,
    *,
    keeps_norms: bool = False,
    rewrite: Callable[[onnx.ModelProto], onnx.ModelProto] | None = None,
) -> OnnxModel:
    """`model` itself if edgeres wrote it, or it is quantized, and it ends in logits; otherwise its plain form.

    `keeps_norms`: of a network to be trained, batch norms are not folded. `rewrite`: what becomes of the plain form.
    What cannot be made plain is refused, with InputError, when the graph is asked for.
    """
    is_plain = not _is_another_tools(model) and last_softmax(model.proto) is None and rewrite is None
    return model if is_plain else PlainModel(model.path, model.stated, model, keeps_norms, rewrite)


def _is_another_tools(model: OnnxModel) -> bool:
    """Whether its float graph may hold more than the operators of `normal`."""
    return not model.has_card and "int8" not in model.precision


def last_softmax(model: onnx.ModelProto) -> onnx.NodeProto | None:
    """The node that makes the only output, passed on or not, if it is a Softmax."""
    makers = {name: node for node in model.graph.node for name in node.output}
    maker = makers.get(model.graph.output[0].name) if len(model.graph.output) == 1 else None
    while maker is not None and maker.op_type == "Identity":
        maker = makers.get(maker.input[0])
    return maker if maker is not None and maker.op_type == "Softmax" else None


def ends_in(model: onnx.ModelProto) -> list[str]:
    """The tensors it gives: its outputs, or the logits that the Softmax which makes the only one reads."""
    softmax = last_softmax(model)
    return [value.name for value in model.graph.output] if softmax is None else [str(softmax.input[0])]


def put_back(model: onnx.ModelProto, softmax: onnx.NodeProto) -> None:
    """`model`, which was made from a plain form, ends in `softmax` again."""
    model.graph.node.append(softmax)
    model.graph.output[0].name = softmax.output[0]


def _check(model: onnx.ModelProto) -> None:
    """Raises InputError for an invalid graph; outputs without a shape, which the checker minds, are well."""
    onnx = require("onnx", "onnx")
    copy = deepcopy(model)
    for value in copy.graph.output:
        value.type.tensor_type.shape.SetInParent()
    try:
        onnx.checker.check_model(copy)
    except (onnx.checker.ValidationError, ValueError) as err:
        raise InputError(f"not a valid ONNX model: {reason_of(err)}") from err


def _without_softmax(model: onnx.ModelProto) -> onnx.ModelProto:
    softmax = last_softmax(model)
    if softmax is None:
        return model
    copy, gone = deepcopy(model), {*softmax.output}
    for node in list(copy.graph.node):
        if node == softmax or gone.intersection(node.input):  # which is passed on
            gone.update(node.output)
            copy.graph.node.remove(node)
    copy.graph.output[0].name = softmax.input[0]
    return copy


def _channels_first(model: onnx.ModelProto, source: OnnxModel) -> onnx.ModelProto:
    name, shape = image_input(model, source.path)
    if not is_channels_last(shape[1:]):
        return model
    graph = model.graph
    readers = [node for node in graph.node if name in node.input]
    perm = [list(entry.ints) for node in readers for entry in node.attribute if entry.name == "perm"]
    if [node.op_type for node in readers] != ["Transpose"] or perm != [_TO_CHANNELS_FIRST]:
        raise InputError(f"{source.path} computes with channels last; export it with channels first to quantize it")
    moved = readers[0].output[0]
    graph.node.remove(readers[0])
    for node in graph.node:
        node.input[:] = [name if one == moved else one for one in node.input]
    value = next(value for value in graph.input if value.name == name)
    batch, height, width, channels = value.type.tensor_type.shape.dim
    dims = deepcopy([batch, channels, height, width])
    del value.type.tensor_type.shape.dim[:]
    value.type.tensor_type.shape.dim.extend(dims)
    return model
