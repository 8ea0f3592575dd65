"""Any residual network as the chain that search, recovery and lesions walk: a graph, run part by part by torch.

Convolutions, linear layers and batch norms are torch's own modules under the user's own names, so that they train, are
folded and found like those of every other network; every other operator is a function.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from edgeres.core.errors import InputError
from edgeres.graph.chain import Droppable, chain_in
from edgeres.graph.execute import operator_of
from edgeres.graph.joined import joined
from edgeres.graph.normal import shapes_in
from edgeres.graph.structure import PARAMETERS, weight_shapes
from edgeres.graph.view import GraphView, attribute, called
from edgeres.models.network import Network, Parts, Unit, live_in

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
    """A node that has no parameters of its own; what it is always given stands in `fixed`, by place."""

    def __init__(self, node: onnx.NodeProto, fixed: Mapping[int, Tensor | None]) -> None:
        super().__init__()
        self.kind = node.op_type
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


@dataclass(frozen=True)
class Segment:
    """The calls from the tensors `feeds` to `targets`, readers of a key of `instead` reading its value."""

    calls: tuple[NodeCall, ...]
    feeds: tuple[str, ...]
    targets: tuple[str, ...]
    instead: Mapping[str, str] = field(default_factory=dict)

    def run(self, network: GraphNet, x: Any) -> Any:
        """What `x`, the feeds, becomes; one tensor stands for itself."""
        values: dict[str, Any] = dict(zip(self.feeds, x if isinstance(x, tuple) else (x,), strict=True))
        reads = [[self.instead.get(name, name) for name in call.inputs] for call in self.calls]
        ends = [self.instead.get(name, name) for name in self.targets]
        last = {name: index for index, names in enumerate(reads) for name in names}
        for index, (call, names) in enumerate(zip(self.calls, reads, strict=True)):
            given = [values[name] if name in values else network.get_parameter(name) for name in names]
            found = network.get_submodule(call.module)(*given)
            values.update(zip(call.outputs, found if len(call.outputs) > 1 else (found,), strict=True))
            for name in (name for name in {*names} if last[name] == index and name not in ends):
                values.pop(name, None)
        return values[ends[0]] if len(ends) == 1 else tuple(values[name] for name in ends)


class Piece(nn.Module):
    """Steps that are one part of a module: no layer, or one that others use too."""

    def __init__(self, network: GraphNet, segment: Segment) -> None:
        super().__init__()
        self._network, self._segment = [network], segment  # in a list: no part of this module

    def forward(self, x: Tensor) -> Tensor:
        """What the steps make of `x`."""
        return self._segment.run(self._network[0], x)  # type: ignore[no-any-return]


class GraphUnit(Unit):
    """A residual module of a graph, `link`, from the tensors `before` to those `behind`."""

    def __init__(
        self, network: GraphNet, before: tuple[str, ...], link: Droppable, behind: tuple[str, ...], *, dropped: bool
    ) -> None:
        super().__init__()
        self._network, self._before, self._link, self._behind = [network], before, link, behind  # in a list: no part
        self.dropped = dropped
        self._bypass = network.segment(before, behind, {link.block.output: link.block.skip})
        self._whole = self._bypass if dropped else network.segment(before, behind)

    @property
    def vanishes(self) -> bool:
        """Whether it is dropped and nothing is left of it."""
        return self.dropped and len(self._before) == len(self._behind) == 1 and not self._bypass.calls

    def parts(self) -> Parts:
        """Branch and activation from cut to cut; what the skip goes through too, or another module, is one piece.

        Where other tensors are live it begins at the fork, and they pass through what the graph has beside it.
        """
        network, block, end = self._network[0], self._link.block, self._link.end
        is_alone = len(self._before) == len(self._behind) == 1
        feed = self._before[0] if is_alone else block.source
        beside = {call.module for call in self._bypass.calls} | network.reused
        branch, after = (
            network.pieces(before, target, beside) for before, target in ((feed, block.branch), (block.output, end))
        )
        skip = Piece(network, network.segment((feed,), (block.skip,)))
        if is_alone:
            return Parts(branch, skip, after)
        into, behind = network.segment(self._before, (feed,)), network.segment((*self._before, end), self._behind)
        return Parts(
            branch, skip, after, lambda x: into.run(network, x), lambda x, y: behind.run(network, (*live_in(x), y))
        )

    def forward(self, x: Tensor) -> Tensor:
        """f(h(x) + F(x))."""
        return self._whole.run(self._network[0], x)  # type: ignore[no-any-return]

    def bypass(self, x: Tensor) -> Tensor:
        """f(h(x))."""
        return self._bypass.run(self._network[0], x)  # type: ignore[no-any-return]

    def named_parameters(self, *_: Any, **__: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """Those of its branch, the skip's left out."""
        left = {step.module for step in self._bypass.calls}
        for name in (step.module for step in self._whole.calls if step.module not in left):
            for own, parameter in self._network[0].get_submodule(name).named_parameters():
                yield f"{name}.{own}", parameter


class GraphNet(Network):
    """The network of a graph without weights; `names`: its residual additions -> their modules, `dropped` among them.

    What is left of it has the cuts of the whole, so that both can walk side by side; `skips`: sums of what is gone ->
    what is read instead. Several outputs are joined.
    """

    def __init__(
        self, structure: onnx.ModelProto, names: Mapping[str, str], dropped: Collection[str] = frozenset()
    ) -> None:
        super().__init__()
        self.tree = Layers()
        self.tree.add_module(OPERATIONS, nn.ModuleList())
        view = GraphView(structure := joined(structure))
        chain, (image, output) = chain_in(view, names), (view.inputs[0], view.outputs[0])
        self.skips: dict[str, str] = {}
        for block in (link.block for link in chain.links if link.name in dropped):
            self.skips[block.output] = self.skips.get(block.skip, block.skip)
        self._calls = _Builder(view, weight_shapes(structure), shapes_in(structure), self.tree).calls(self.skips)
        self._makers = {output: index for index, call in enumerate(self._calls) for output in call.outputs}
        passed = {image, *self._makers, *self.skips}
        ends = [tuple(one for one in live if one in passed) for live in (chain.start, *(x.live for x in chain.links))]
        units = [
            (link.name, GraphUnit(self, before, link, after, dropped=link.name in dropped))
            for before, link, after in zip(ends[:-1], chain.links, ends[1:], strict=True)
        ]
        self._units = [(name, unit) for name, unit in units if not unit.vanishes]
        features = (chain.features,)
        self._stem, self._body = self.segment((image,), ends[0]), self.segment((image,), features, self.skips)
        self._tail, self._head = self.segment(ends[-1], features), self.segment(features, (output,))

    def units(self) -> list[tuple[str, Unit]]:
        """The modules present, by name, in order of execution."""
        return list(self._units)

    def stem(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W), normalised, to the first module's input."""
        return self._stem.run(self, x)  # type: ignore[no-any-return]

    def tail(self, x: Tensor) -> Tensor:
        """What follows the last module before the pooling."""
        return self._tail.run(self, x)  # type: ignore[no-any-return]

    def classify(self, features: Tensor) -> Tensor:
        """Features to logits (N, K)."""
        return self._head.run(self, features)  # type: ignore[no-any-return]

    def features(self, x: Tensor) -> Tensor:
        """The feature map before pooling."""
        return self._body.run(self, x)  # type: ignore[no-any-return]

    def get_submodule(self, target: str) -> nn.Module:
        """By the user's name; the network itself is called ``."""
        return self.tree.get_submodule(target) if target else self

    def get_parameter(self, target: str) -> nn.Parameter:
        """By the user's name."""
        path, _, last = target.rpartition(".")
        return getattr(self.tree.get_submodule(path), last)  # type: ignore[no-any-return]  # a proxy while it is traced

    def set_submodule(self, target: str, module: nn.Module, strict: bool = False) -> None:
        """By the user's name."""
        self.tree.set_submodule(target, module, strict)

    def named_modules(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Module]]:
        """All by the user's names, this one first."""
        prefix = str(kwargs.get("prefix", args[1] if len(args) > 1 else ""))
        yield prefix, self
        yield from (pair for pair in self.tree.named_modules(*args, **kwargs) if pair[1] is not self.tree)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """By the user's names."""
        return self.tree.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """By the user's names."""
        return self.tree.load_state_dict(*args, **kwargs)

    @property
    def reused(self) -> set[str]:
        """Layers that several nodes stand for."""
        times = Counter(call.module for call in self._calls)
        return {module for module, count in times.items() if count > 1}

    def pieces(self, feed: str, target: str, beside: Collection[str]) -> list[nn.Module]:
        """What leads from `feed` to `target` in parts, from one tensor that is all that passes to the next.

        The modules `beside` stand inside a piece only.
        """
        calls, found, begun, at = self.segment((feed,), (target,)).calls, list[nn.Module](), 0, feed
        last = {name: index for index, call in enumerate(calls) for name in call.inputs}
        live = {feed}
        for index, call in enumerate(calls):
            live = {name for name in (*live, *call.outputs) if name == target or last.get(name, -1) > index}
            if len(live) == 1:
                (end,) = live
                alone = index == begun and call.module not in beside
                layer = self.get_submodule(call.module) if alone else None
                found += _as_layers(layer) or [Piece(self, Segment(calls[begun : index + 1], (at,), (end,)))]
                begun, at = index + 1, end
        return found

    def segment(
        self, feeds: tuple[str, ...], targets: tuple[str, ...], instead: Mapping[str, str] | None = None
    ) -> Segment:
        """All that `targets` need back to `feeds`."""
        instead = instead or {}
        needed, open_ = set[int](), list(targets)
        while open_:
            name = instead.get(one := open_.pop(), one)
            if name not in feeds and name in self._makers and self._makers[name] not in needed:
                needed.add(self._makers[name])
                open_ += self._calls[self._makers[name]].inputs
        return Segment(tuple(self._calls[index] for index in sorted(needed)), feeds, targets, instead)


def _as_layers(module: nn.Module | None) -> list[nn.Module]:
    """What torch has that does what a step does; nothing where there is nothing."""
    if isinstance(module, Operation):
        return [nn.ReLU()] if module.kind == "Relu" else []
    if isinstance(module, PaddedConv2d):
        return [nn.ZeroPad2d(module.before), module]  # type: ignore[arg-type]
    return [module] if module is not None else []


@dataclass
class _Builder:
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
        makers, open_, needed = self.view.producers, list(self.view.outputs), set[int]()
        read = {*open_}
        while open_:
            node = makers.get(skips.get(one := open_.pop(), one))
            if node is not None and id(node) not in needed:
                needed.add(id(node))
                read.update(node.input)
                open_ += node.input
        nodes = [node for node in self.view.nodes if id(node) in needed and node.op_type != "Constant"]
        found = [self._step(node) for node in nodes]
        for name in (one for one in self.weights if one in read):
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


def outputs_of(structure: onnx.ModelProto, shape: tuple[int, int, int], where: str) -> dict[str, tuple[int, ...]]:
    """Output -> its shape for an image of `shape`; raises InputError for one that has nothing for each."""
    network, names = GraphNet(structure, {}).eval(), tuple(value.name for value in structure.graph.output)
    each = network.segment(tuple(GraphView(structure).inputs[:1]), names)
    try:
        with torch.no_grad():
            found = live_in(each.run(network, torch.zeros(2, *shape)))
    except RuntimeError as err:
        reason = str(err).splitlines()[0]
        raise InputError(f"{where} cannot be run on two images at once: {reason}") from err
    gives = dict(zip(names, found, strict=True))
    for name, one in gives.items():
        if one.ndim < 2 or len(one) != 2 or not one.numel():
            which = f" as {name!r}" if len(gives) > 1 else ""
            what = " x ".join(map(str, one.shape)) or "a single number"
            raise InputError(f"{where} gives {what}{which} for two images, no numbers for each")
    return {name: tuple(one.shape[1:]) for name, one in gives.items()}
