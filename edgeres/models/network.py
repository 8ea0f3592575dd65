"""A network as a chain: stem, units, tail, classifier. Every unit can be bypassed.

    logits = classify(tail(unit_n(... unit_1(stem(x)))))

What passes between units is one tensor; in a graph whose branches run in parallel a tuple of all that later units read.

`unit.bypass(x)` is what remains of the unit when its module is dropped: the shortcut and the activation after the
addition, h(x) and f in y = f(h(x) + F(x)). For a residual module this equals zeroing F, bit for bit.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from edgeres.core.distances import difference_of, split
from edgeres.core.spec import ModelSpec

N = TypeVar("N", bound=nn.Module)
_LEAST_IN = 8  # channels that oneDNN's kernel for AVX2 takes at once
ROUNDINGS = 4  # that two programs may be apart by which sum in another order: each is about one from the exact outputs


@dataclass(frozen=True)
class Parts:
    """A module y = f(h(x) + F(x)) as lists: of `branch` F and `after` f in order, and the `skip` h, None without.

    Where tensors pass beside it, `enter` takes x from all that are live, `leave` makes of them and y those behind it.
    """

    branch: Sequence[nn.Module]
    skip: Callable[[Tensor], Tensor] | None
    after: Sequence[nn.Module]
    enter: Callable[[Any], Tensor] = lambda x: x
    leave: Callable[[Any, Tensor], Any] = lambda _, y: y


def in_fast_layout(network: N) -> N:
    """Channels last, which is the faster layout, but for what oneDNN would write past its memory in.

    That is the gradient of the weights of a strided 1x1 convolution with fewer than 8 channels in, on CPUs with AVX2
    and without AVX-512: the heap is damaged or the gradient wrong. Source: github.com/uxlfoundation/oneDNN/issues/6035;
    so it is in torch 2.14.1.
    """
    network.to(memory_format=torch.channels_last)
    for layer in network.modules():
        is_strided = isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) != layer.stride
        if isinstance(layer, nn.Conv2d) and is_strided and layer.weight.shape[1] < _LEAST_IN:
            layer.weight.data = _channels_first(layer.weight.data)
            if not layer._forward_pre_hooks:
                layer.register_forward_pre_hook(lambda _, inputs: _channels_first(inputs[0]))
    return network


def _channels_first(x: Tensor) -> Tensor:
    return x.clone(memory_format=torch.contiguous_format)  # `contiguous` leaves the strides of sides of 1 as they are


def live_in(x: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What passes between two units, as tensors."""
    return x if isinstance(x, tuple) else (x,)


class Unit(nn.Module):
    """One module of the chain; `dropped` if only its bypass is left."""

    dropped = False

    def parts(self) -> Parts:
        """What a module that is not dropped is made of."""
        raise NotImplementedError

    def bypass(self, x: Tensor) -> Tensor:
        """The output if the module is dropped."""
        raise NotImplementedError


class Network(nn.Module):
    """The chain; subclasses make stem, units and head in this order, which names and initial weights follow."""

    spec: ModelSpec | None = None  # which it was made by
    avgpool: nn.Module
    fc: nn.Linear

    def add_units(self, named: list[tuple[str, Unit]]) -> None:
        """Those called `layer2.1` become `layer2 -> Sequential({"1": unit})`, so that names never change."""
        self._names = [name for name, _ in named]
        stages: dict[str, OrderedDict[str, nn.Module]] = {}
        for name, unit in named:
            stage, _, index = name.partition(".")
            stages.setdefault(stage, OrderedDict())[index] = unit
        for stage, units in stages.items():
            self.add_module(stage, nn.Sequential(units))

    def add_head(self, features: int, classes: int, *, pooled: bool = True) -> None:
        """Global average pooling and the linear classifier, and everything initialised.

        He initialisation (fan-out) for convolutions and hidden linear layers, batch norm at (1, 0).
        """
        self.avgpool = nn.AdaptiveAvgPool2d(1) if pooled else nn.Identity()
        self.fc = nn.Linear(features, classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.fc.weight, std=0.01)

    def stem(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W), normalised, to the first module's input."""
        raise NotImplementedError

    def units(self) -> list[tuple[str, Unit]]:
        """The modules present, by original name, in order of execution."""
        return [(name, self.get_submodule(name)) for name in self._names]  # type: ignore[misc]

    def tail(self, x: Tensor) -> Tensor:
        """What follows the last module before pooling (a final activation in pre-activation networks)."""
        return x

    def classify(self, features: Tensor) -> Tensor:
        """Features to logits (N, K)."""
        return self.fc(self.avgpool(features).flatten(1))  # type: ignore[no-any-return]

    def features(self, x: Tensor) -> Tensor:
        """The feature map before global pooling: what mimicking compares."""
        x = self.stem(x)
        for _, unit in self.units():
            x = unit(x)
        return self.tail(x)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K)."""
        return self.classify(self.features(x))


@torch.no_grad()
def rounding_in(network: nn.Module, images: Tensor, sizes: Sequence[int] = ()) -> float:
    """How far its outputs (`sizes`: of several) are from its own in float64, by `difference_of`."""
    exact = copy.deepcopy(network).double()(images.double()).float()
    return difference_of(*([one.numpy() for one in split(made, sizes)] for made in (network(images), exact)))


class PadShortcut(nn.Module):
    """Option A of He et al. 2015: subsample, and fill the new channels with zeros, half on each side."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        extra = out_channels - in_channels
        self.before, self.after, self.stride = extra // 2, extra - extra // 2, stride

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) to (N, C_out, H / stride, W / stride); (N, C_in) to (N, C_out)."""
        if x.ndim == 2:
            return nn.functional.pad(x, (self.before, self.after))
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        return nn.functional.pad(x, (0, 0, 0, 0, self.before, self.after))
