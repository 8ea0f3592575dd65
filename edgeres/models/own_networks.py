"""The networks of our own families: the residual one and VGG's, its control.

A residual module is y = f(h(x) + F(x)), its parts ordered as the spec says:

    original          F = conv BN ReLU conv BN            f = ReLU
    bn-after-add      F = conv BN ReLU conv               f = BN ReLU
    relu-before-add   F = conv BN ReLU conv BN ReLU       f = identity
    relu-only-preact  F = ReLU conv BN ReLU conv BN       f = identity
    full-preact       F = BN ReLU conv BN ReLU conv       f = identity

Pre-activation networks move the first activation of the first module in front of its fork and add one after the last
module (He et al. 2016, section 4.1). Shortcuts see the raw x in every ordering. Key names are torchvision's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise

from torch import Tensor, nn

from edgeres.core.spec import ModelSpec
from edgeres.models.family import Layout, ModuleInfo
from edgeres.models.network import Network, PadShortcut, Parts, Unit


class Residual(Unit):
    """One module; with `dropped` only h and f are left. Without skips the branch alone is the output."""

    def __init__(self, info: ModuleInfo, layout: Layout, *, first: bool, dropped: bool) -> None:
        super().__init__()
        self.skips, self.dropped = layout.skips, dropped
        self.downsample = _shortcut(info, layout)
        self._order: list[str] = []
        if not dropped:
            self._add_branch(info, layout, first=first)
        self._after: list[str] = []
        if layout.ordering == "bn-after-add":
            self.bn_out = _norm(layout)(info.out_channels)
            self._after.append("bn_out")
        self.relu = nn.ReLU()
        if layout.ordering in {"original", "bn-after-add"}:
            self._after.append("relu")

    def _add_branch(self, info: ModuleInfo, layout: Layout, *, first: bool) -> None:
        inner = info.out_channels // 4 if layout.bottleneck else info.out_channels
        widths = [info.in_channels, *[inner] * (layout.layers - 1), info.out_channels]
        for i, (a, b) in enumerate(pairwise(widths), 1):
            last = i == layout.layers
            leading = not (first and i == 1)
            if layout.ordering == "full-preact" and leading:
                self._add(f"bn{i}", _norm(layout)(a))
            if layout.preactivation and leading:
                self._order.append("relu")
            self._add(f"conv{i}", _layer(info, layout, i)(a, b))
            has_norm = layout.ordering != "full-preact" and not (last and layout.ordering == "bn-after-add")
            if has_norm:
                self._add(f"bn{i}", _norm(layout)(b))
            if not layout.preactivation and (not last or layout.ordering == "relu-before-add"):
                self._order.append("relu")

    def _add(self, name: str, module: nn.Module) -> None:
        self.add_module(name, module)
        self._order.append(name)

    def parts(self) -> Parts:
        """F and f in the order of the spec."""
        branch, after = ([getattr(self, name) for name in names] for names in (self._order, self._after))
        return Parts(branch, self.shortcut if self.skips else None, after)

    def branch(self, x: Tensor) -> Tensor:
        """F(x)."""
        for name in self._order:
            x = getattr(self, name)(x)
        return x

    def shortcut(self, x: Tensor) -> Tensor:
        """h(x)."""
        return x if self.downsample is None else self.downsample(x)

    def after(self, y: Tensor) -> Tensor:
        """f(y)."""
        for name in self._after:
            y = getattr(self, name)(y)
        return y

    def bypass(self, x: Tensor) -> Tensor:
        """f(h(x))."""
        return self.after(self.shortcut(x))

    def forward(self, x: Tensor) -> Tensor:
        """f(h(x) + F(x))."""
        if self.dropped:
            return self.bypass(x)
        y = self.branch(x)
        return self.after(self.shortcut(x) + y if self.skips else y)


class ResNet(Network):
    """Any network of this family."""

    def __init__(self, spec: ModelSpec, layout: Layout) -> None:
        super().__init__()
        self._layout = layout
        self._add_stem(spec, layout)
        first = layout.modules[0].name if layout.preactivation else ""
        self.add_units(
            [
                (info.name, Residual(info, layout, first=info.name == first, dropped=info.name in spec.dropped))
                for info in layout.modules
                if info.name not in spec.dropped or not _vanishes(info, layout)
            ]
        )
        features = layout.modules[-1].out_channels
        if layout.ordering == "full-preact":
            self.bn_last = _norm(layout)(features)
        self.add_head(features, spec.num_classes, pooled=not layout.linear)

    def _add_stem(self, spec: ModelSpec, layout: Layout) -> None:
        channels, height, width = spec.input_shape
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1) if layout.imagenet else nn.Identity()
        if layout.linear:
            self.conv1: nn.Module = nn.Linear(channels * height * width, layout.width, bias=False)
        elif layout.imagenet:
            self.conv1 = nn.Conv2d(channels, layout.width, 7, 2, 3, bias=False)
        else:
            self.conv1 = nn.Conv2d(channels, layout.width, 3, 1, 1, bias=False)
        self.bn1 = _norm(layout)(layout.width)

    def stem(self, x: Tensor) -> Tensor:
        """Convolution, batch norm, ReLU (and max pooling)."""
        if self._layout.linear:
            x = x.flatten(1)
        return self.maxpool(self.relu(self.bn1(self.conv1(x))))  # type: ignore[no-any-return]

    def tail(self, x: Tensor) -> Tensor:
        """The activation that closes a pre-activation network."""
        if self._layout.ordering == "full-preact":
            x = self.bn_last(x)
        return self.relu(x) if self._layout.preactivation else x


def _vanishes(info: ModuleInfo, layout: Layout) -> bool:
    """Whether nothing is left of a dropped module: h is the identity, and f changes nothing.

    In the original ordering f is a ReLU on an input that follows a ReLU already, hence the identity.
    """
    return info.kind == "identity" and layout.ordering != "bn-after-add"


def _layer(info: ModuleInfo, layout: Layout, i: int) -> Callable[[int, int], nn.Module]:
    """The i-th (from 1) layer of a module: the stride is on the first 3x3 convolution."""
    if layout.linear:
        return partial(nn.Linear, bias=False)
    if layout.bottleneck and i in {1, layout.layers}:
        return partial(nn.Conv2d, kernel_size=1, bias=False)
    stride = info.stride if i == (2 if layout.bottleneck else 1) else 1
    return partial(nn.Conv2d, kernel_size=3, stride=stride, padding=1, bias=False)


def _norm(layout: Layout) -> type[nn.Module]:
    return nn.BatchNorm1d if layout.linear else nn.BatchNorm2d


def _shortcut(info: ModuleInfo, layout: Layout) -> nn.Module | None:
    """None for the identity. A plain network passes its input on only where a module is dropped, padded as in A."""
    if info.kind == "identity":
        return None
    if layout.shortcut == "A" or not layout.skips:
        return PadShortcut(info.in_channels, info.out_channels, info.stride)
    if layout.linear:
        projection: nn.Module = nn.Linear(info.in_channels, info.out_channels, bias=False)
    else:
        projection = nn.Conv2d(info.in_channels, info.out_channels, 1, info.stride, bias=False)
    return nn.Sequential(projection, _norm(layout)(info.out_channels))


class VggLayer(Unit):
    """Convolution, batch norm, ReLU, and the pooling that closes its stage."""

    def __init__(self, info: ModuleInfo, *, pool: bool, dropped: bool) -> None:
        super().__init__()
        self.dropped = dropped
        if not dropped:
            self.conv = nn.Conv2d(info.in_channels, info.out_channels, 3, padding=1, bias=False)
            self.bn = nn.BatchNorm2d(info.out_channels)
        self.relu = nn.ReLU()
        self.pass_on = PadShortcut(info.in_channels, info.out_channels, 1)
        self.pool = nn.MaxPool2d(2) if pool else nn.Identity()

    def parts(self) -> Parts:
        """No skip: the ReLU closes the convolution."""
        return Parts((self.conv, self.bn), None, (self.relu, self.pool))

    def bypass(self, x: Tensor) -> Tensor:
        """The input, padded to the output's channels, activated and pooled."""
        return self.pool(self.relu(self.pass_on(x)))  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """pool(ReLU(BN(conv(x))))."""
        return self.bypass(x) if self.dropped else self.pool(self.relu(self.bn(self.conv(x))))


class VggNet(Network):
    """VGG-11, 13 or 16; a stage's pooling is left out once one pixel remains (small images)."""

    def __init__(self, spec: ModelSpec, modules: tuple[ModuleInfo, ...]) -> None:
        super().__init__()
        present: list[tuple[str, Unit]] = []
        side = min(spec.input_shape[1:])
        for info, following in zip(modules, (*modules[1:], None), strict=True):
            closes = following is None or following.name.endswith(".0")
            pool = closes and side > 1
            side = side // 2 if pool else side
            present.append((info.name, VggLayer(info, pool=pool, dropped=info.name in spec.dropped)))
        self.add_units(present)
        self.add_head(modules[-1].out_channels, spec.num_classes)

    def stem(self, x: Tensor) -> Tensor:
        """Nothing: the first convolution is a module."""
        return x
