"""Any residual network as the chain that search, recovery and lesions walk: a graph, run part by part by torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from edgeres.core.errors import InputError
from edgeres.graph.chain import Droppable, chain_in, joined
from edgeres.graph.normal import shapes_in
from edgeres.graph.structure import weight_shapes
from edgeres.graph.view import GraphView
from edgeres.models.network import Network, Parts, Unit, live_in
from edgeres.models.weighted_layers import OPERATIONS, Builder, Layers, NodeCall, as_layers


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
            values.update({name: found[at] if len(call.outputs) > 1 else found for at, name in enumerate(call.outputs)})
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


class GraphNet(Network):
    """The network of a graph without weights, less the modules `dropped`.

    What is left of it has the cuts of the whole, so that both can walk side by side; `skips`: sums of what is gone ->
    what is read instead. Several outputs are joined.
    """

    def __init__(self, structure: onnx.ModelProto, dropped: Collection[str] = ()) -> None:
        super().__init__()
        self.tree = Layers()
        self.tree.add_module(OPERATIONS, nn.ModuleList())
        view = GraphView(structure := joined(structure))
        chain, (image, output) = chain_in(view), (view.inputs[0], view.outputs[0])
        self.skips: dict[str, str] = {}
        for block in (link.block for link in chain.links if link.name in dropped):
            self.skips[block.output] = self.skips.get(block.skip, block.skip)
        self._calls = Builder(view, weight_shapes(structure), shapes_in(structure), self.tree).calls(self.skips)
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

    def __getattr__(self, name: str) -> Any:
        """By the user's name, as in the user's code: `net.fc`."""
        tree = self.__dict__.get("_modules", {}).get("tree")
        return getattr(tree, name) if tree is not None and name in tree._modules else super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Of a layer by the user's name: what is computed with from now on."""
        tree = self.__dict__.get("_modules", {}).get("tree")
        if tree is not None and name in tree._modules and isinstance(value, nn.Module):
            setattr(tree, name, value)
        else:
            super().__setattr__(name, value)

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
        """All by the user's names, this one first; what has no dot in its name is the tree's."""
        prefix = str(kwargs.get("prefix", args[1] if len(args) > 1 else ""))
        yield prefix, self
        yield from self.tree.named_modules(*args, **kwargs)

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
                found += as_layers(layer) or [Piece(self, Segment(calls[begun : index + 1], (at,), (end,)))]
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


def outputs_of(structure: onnx.ModelProto, shape: tuple[int, int, int], where: str) -> dict[str, tuple[int, ...]]:
    """Output -> its shape for an image of `shape`; raises InputError for one that has nothing for each."""
    network, names = GraphNet(structure).eval(), tuple(value.name for value in structure.graph.output)
    each = network.segment(tuple(GraphView(structure).inputs[:1]), names)
    try:
        with torch.no_grad():
            found = live_in(each.run(network, torch.zeros(2, *shape)))
    except RuntimeError as err:
        raise InputError(f"{where} cannot be run on two images at once: {first_line_of(err)}") from err
    gives = dict(zip(names, found, strict=True))
    for name, one in gives.items():
        if one.ndim < 2 or len(one) != 2 or not one.numel():
            which = f" as {name!r}" if len(gives) > 1 else ""
            what = " x ".join(map(str, one.shape)) or "a single number"
            raise InputError(f"{where} gives {what}{which} for two images, no numbers for each")
    return {name: tuple(one.shape[1:]) for name, one in gives.items()}


def first_line_of(err: Exception) -> str:
    """Of what it says, its name if that is nothing."""
    return str(err).strip().partition("\n")[0] or type(err).__name__
