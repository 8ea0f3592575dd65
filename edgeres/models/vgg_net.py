"""The VGG network itself."""

from __future__ import annotations

from torch import Tensor, nn

from edgeres.core.spec import ModelSpec
from edgeres.models.family import ModuleInfo
from edgeres.models.network import Network, PadShortcut, Parts, Unit


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
