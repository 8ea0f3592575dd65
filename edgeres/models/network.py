"""A network as a chain: stem, units, tail, classifier. Every unit can be bypassed.

    logits = classify(tail(unit_n(... unit_1(stem(x)))))

`unit.bypass(x)` is what remains of the unit when its module is dropped: the shortcut and the activation after the
addition, h(x) and f in y = f(h(x) + F(x)). For a residual module this equals zeroing F, bit for bit.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from torch import Tensor, nn


class Unit(nn.Module):
    """One module of the chain; `dropped` if only its bypass is left."""

    dropped = False

    def bypass(self, x: Tensor) -> Tensor:
        """The output if the module is dropped."""
        raise NotImplementedError


class Network(nn.Module):
    """The chain; subclasses fill in the four parts."""

    def stem(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W), normalised, to the first module's input."""
        raise NotImplementedError

    def units(self) -> list[tuple[str, Unit]]:
        """The modules present, by original name, in order of execution."""
        raise NotImplementedError

    def tail(self, x: Tensor) -> Tensor:
        """What follows the last module before pooling (a final activation in pre-activation networks)."""
        return x

    def classify(self, features: Tensor) -> Tensor:
        """Features to logits (N, K)."""
        raise NotImplementedError

    def features(self, x: Tensor) -> Tensor:
        """The feature map before global pooling: what mimicking compares."""
        x = self.stem(x)
        for _, unit in self.units():
            x = unit(x)
        return self.tail(x)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K)."""
        return self.classify(self.features(x))


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


def stages_of(named: Iterable[tuple[str, Unit]]) -> OrderedDict[str, nn.Sequential]:
    """Units called `layer2.1` grouped as `layer2 -> Sequential({"1": unit})`, so that names never change."""
    stages: OrderedDict[str, OrderedDict[str, nn.Module]] = OrderedDict()
    for name, unit in named:
        stage, _, index = name.partition(".")
        stages.setdefault(stage, OrderedDict())[index] = unit
    return OrderedDict((stage, nn.Sequential(units)) for stage, units in stages.items())


def initialise(network: nn.Module) -> None:
    """He initialisation (fan-out) for convolutions and hidden linear layers, batch norm at (1, 0)."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    final = [module for module in network.modules() if isinstance(module, nn.Linear)][-1:]
    for classifier in final:
        nn.init.normal_(classifier.weight, std=0.01)
