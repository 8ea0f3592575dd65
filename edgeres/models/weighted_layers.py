"""The nodes of a graph as torch's modules under the user's own names.

Convolutions, linear layers and batch norms are torch's own, so that they train, are folded and found like those of
every other network; every other operator is a function.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from edgeres.core.errors import InputError
from edgeres.graph.execute import operator_of
from edgeres.graph.structure import PARAMETERS
from edgeres.graph.view import GraphView, attribute, called

_BY_NUMBERS = frozenset({"Clip", "Pad", "Resize"})  # bounds and scales, which Python reads as it does all integers
OPERATIONS = "_operations"  # where functions stand among the layers
_OLD_SHARE = 0.9  # of the statistics in ONNX's momentum; torch's is the share of the new ones
_IMAGE_RANK = 4


class Layers(nn.Module):
    """What stands between the dots of a name."""


class PaddedConv2d(nn.Conv2d):
    """A convolution with another padding on every side: (left, right, top, bottom)."""

    before: tuple[int, ...] = (0, 0, 0, 0)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, K, H', W')."""
        return super().forward(nn.functional.pad(x, self.before))


class Operation(nn.Module):
    """A node that has no parameters of its own, by its `name`; what it is always given stands in `fixed`, by place."""

    def __init__(self, node: onnx.NodeProto, fixed: Mapping[int, Tensor | None]) -> None:
        super().__init__()
        self.kind, self.name = node.op_type, called(node)
        self._run, self._fixed, self._places = operator_of(node), dict(fixed), range(len(node.input))
        self._device = torch.device("cpu")

    def forward(self, *values: Tensor) -> Any:
        """The node's output, or all of them."""
        if values and values[0].device != self._device:
            self._device = values[0].device
            for place, one in self._fixed.items():
                if one is not None and one.is_floating_point() and self.kind not in _BY_NUMBERS:
                    self._fixed[place] = one.to(self._device)
        rest = iter(values)
        return self._run(*(self._fixed[place] if place in self._fixed else next(rest) for place in self._places))


@dataclass(frozen=True)
class NodeCall:
    """A node: the module that computes it, and what that reads and gives."""

    module: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def as_layers(module: nn.Module | None) -> list[nn.Module]:
    """What torch has that does what a step does; nothing where there is nothing."""
    if isinstance(module, Operation):
        return [nn.ReLU()] if module.kind == "Relu" else []
    if isinstance(module, PaddedConv2d):
        return [nn.ZeroPad2d(module.before), module]  # type: ignore[arg-type]
    return [module] if module is not None else []


@dataclass
class Builder:
    """Makes the modules of a graph's nodes in `tree`."""

    view: GraphView
    weights: Mapping[str, tuple[int, ...]]
    shapes: Mapping[str, tuple[int, ...]]
    tree: Layers
    made: dict[str, onnx.NodeProto] = field(default_factory=dict)

    def calls(self, skips: Mapping[str, str]) -> list[NodeCall]:
        """One for each node that is needed where the value of a key of `skips` is read instead of it.

        All their weights have their place then.
        """
        needed = self.view.made_from(self.view.outputs, skips)
        nodes = [one for one in self.view.nodes if not needed.isdisjoint(one.output) and one.op_type != "Constant"]
        found = [self._step(node) for node in nodes]
        for name in (one for one in self.weights if one in needed):
            path, _, last = name.rpartition(".")
            if path not in self.made:
                self._place(path).register_parameter(last, nn.Parameter(torch.empty(self.weights[name])))
        return found

    def _step(self, node: onnx.NodeProto) -> NodeCall:
        if (path := self._layer(node)) is not None:
            return NodeCall(path, (node.input[0],), (node.output[0],))
        fixed: dict[int, Tensor | None] = {}
        for place, name in enumerate(node.input):
            if not name:
                fixed[place] = None
            elif name in self.view.constants and name not in self.weights:
                fixed[place] = torch.from_numpy(numpy_helper.to_array(self.view.constants[name]).copy())
        operations: Any = self.tree.get_submodule(OPERATIONS)
        operations.append(Operation(node, fixed))
        inputs = tuple(name for place, name in enumerate(node.input) if place not in fixed)
        return NodeCall(f"{OPERATIONS}.{len(operations) - 1}", inputs, tuple(node.output))

    def _layer(self, node: onnx.NodeProto) -> str | None:
        """The path of the node's module, made if it is not there; None where it is a function."""
        roles, own = PARAMETERS.get(node.op_type, ()), list(node.input[1:])
        path = own[0].rpartition(".")[0] if own else ""
        is_row = node.op_type == "Conv" and own and len(self.weights.get(own[0], ())) != _IMAGE_RANK
        if (
            not roles
            or is_row
            or own != [f"{path}.{role}" for role in roles[: len(own)]]
            or not self.weights.keys() >= {*own}
        ):
            return None
        if path in self.made:
            return path if list(self.made[path].attribute) == list(node.attribute) else None
        make = {"Conv": self._conv, "Gemm": self._linear, "BatchNormalization": self._norm}[node.op_type]
        parent, _, last = path.rpartition(".")
        self._place(parent).add_module(last, make(node, self.weights[own[0]], len(own) > 1))
        self.made[path] = node
        return path

    def _place(self, path: str) -> nn.Module:
        module: nn.Module = self.tree
        for part in filter(None, path.split(".")):
            if part not in module._modules:
                module.add_module(part, Layers())
            module = getattr(module, part)
        return module

    def _conv(self, node: onnx.NodeProto, shape: Sequence[int], has_bias: bool) -> nn.Module:
        if attribute(node, "auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
            raise InputError(f"Conv node {called(node)!r} has auto_pad; export it with explicit pads")
        groups = attribute(node, "group", 1)
        top, left, bottom, right = attribute(node, "pads", [0, 0, 0, 0])
        is_even = (top, left) == (bottom, right)
        kind: type[nn.Conv2d] = nn.Conv2d if is_even else PaddedConv2d
        layer = kind(
            shape[1] * groups,
            shape[0],
            tuple(shape[2:]),  # type: ignore[arg-type]
            stride=tuple(attribute(node, "strides", [1, 1])),  # type: ignore[arg-type]
            padding=(top, left) if is_even else 0,
            dilation=tuple(attribute(node, "dilations", [1, 1])),  # type: ignore[arg-type]
            groups=groups,
            bias=has_bias,
        )
        if isinstance(layer, PaddedConv2d):
            layer.before = (left, right, top, bottom)
        return layer

    def _linear(self, node: onnx.NodeProto, shape: Sequence[int], has_bias: bool) -> nn.Module:
        del node
        return nn.Linear(shape[1], shape[0], bias=has_bias)

    def _norm(self, node: onnx.NodeProto, shape: Sequence[int], _: bool) -> nn.Module:
        rank = len(self.shapes.get(node.input[0], range(_IMAGE_RANK)))
        kind = nn.BatchNorm2d if rank == _IMAGE_RANK else nn.BatchNorm1d
        momentum = 1 - attribute(node, "momentum", _OLD_SHARE)
        return kind(shape[0], eps=attribute(node, "epsilon", 1e-5), momentum=round(momentum, 6))
