"""Residual networks and their plain controls, described without torch.

    resnet18/34/50/101/152   ImageNet networks of He et al. 2015 (torchvision's key names, stride on the 3x3 layer)
    resnet20/32/44/56/110    CIFAR networks, depth = 3 n k + 2 with k layers a module (6n + 2 for the usual two)
    resnet50cifar            the suffix asks for the CIFAR form where a depth exists in both
    plain20 ...              the same without shortcuts
    fcresnet20 ...           the same with fully connected layers

Source: He et al. 2015, arXiv 1512.03385 (networks, shortcut options A, B, C); He et al. 2016, arXiv 1603.05027
(the five orderings of batch norm and activation, figure 4).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from edgeres.core.config import Config, config_from
from edgeres.core.errors import InputError
from edgeres.core.spec import ModelSpec, Preprocess
from edgeres.models.family import CIFAR_INPUT, IMAGENET_INPUT, Layout, ModuleInfo, Ordering

if TYPE_CHECKING:
    from edgeres.models.network import Network

IMAGENET_STAGES = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
_BOTTLENECK_FROM = 50
_EXPANSION = 4  # output channels of a bottleneck over its width


class ResNetOptions(Config):
    """What can differ between two networks of one depth."""

    ordering: Ordering = Field("original", description="order of batch norm, activation and addition")
    shortcut: Literal["A", "B", "C"] | None = Field(
        None, description="A zero-pad, B projection where shapes differ, C projection everywhere"
    )
    layers: int | None = Field(None, ge=1, le=64, description="convolutions (or linear layers) in a module")
    bottleneck: bool | None = Field(None, description="1x1, 3x3, 1x1 modules")
    width: int | None = Field(None, ge=1, description="channels of the first stage")
    stem: Literal["cifar"] | None = Field(None, description="cifar: 3x3, stride 1, no pooling, of an ImageNet depth")


@dataclass(frozen=True)
class ResNetFamily:
    """One family object per name; they differ in two switches."""

    name: str
    variants: tuple[str, ...]
    linear: bool = False
    skips: bool = True

    def defaults(self, variant: str) -> tuple[tuple[int, int, int], Preprocess]:
        """ImageNet's 224 pixels or CIFAR's 32."""
        return IMAGENET_INPUT if self._is_imagenet(variant) else CIFAR_INPUT

    def modules(self, spec: ModelSpec) -> tuple[ModuleInfo, ...]:
        """`layer1.0` ... in order."""
        return self.layout(spec).modules

    def build(self, spec: ModelSpec) -> Network:
        """See `own_networks`."""
        from edgeres.models.own_networks import ResNet

        return ResNet(spec, self.layout(spec))

    def layout(self, spec: ModelSpec) -> Layout:
        """The plan of `spec`; raises InputError for a depth or option that does not exist."""
        options = config_from(ResNetOptions, dict(spec.options), f"options of {spec.variant}")
        imagenet, depth = self._is_imagenet(spec.variant), self._depth(spec.variant)
        bottleneck = options.bottleneck if options.bottleneck is not None else imagenet and depth >= _BOTTLENECK_FROM
        layers = options.layers or (3 if bottleneck else 2)
        if bottleneck and (layers < 3 or self.linear):
            raise InputError(f"{spec.variant}: a bottleneck module has at least 3 convolutions, got {layers}")
        counts = self._counts(spec.variant, layers)
        width = options.width or (64 if imagenet or self.linear else 16)
        shortcut = options.shortcut or ("B" if imagenet or self.linear else "A")
        return Layout(
            imagenet=imagenet and options.stem is None,
            linear=self.linear,
            skips=self.skips,
            ordering=options.ordering,
            shortcut=shortcut,
            bottleneck=bottleneck,
            layers=layers,
            width=width,
            modules=self._modules(counts, width, _EXPANSION if bottleneck else 1, shortcut),
        )

    def _modules(self, counts: tuple[int, ...], width: int, expansion: int, shortcut: str) -> tuple[ModuleInfo, ...]:
        modules, channels = [], width
        for stage, count in enumerate(counts):
            out = width * 2**stage * expansion
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 and not self.linear else 1
                same = stride == 1 and channels == out and shortcut != "C"
                kind: Literal["identity", "projection"] = "identity" if same else "projection"
                modules.append(ModuleInfo(f"layer{stage + 1}.{index}", kind, channels, out, stride))
                channels = out
        return tuple(modules)

    def _counts(self, variant: str, layers: int) -> tuple[int, ...]:
        depth = self._depth(variant)
        if self._is_imagenet(variant):
            return IMAGENET_STAGES[depth]
        n, rest = divmod(depth - 2, 3 * layers)
        if n < 1 or rest:
            raise InputError(
                f"{variant}: a CIFAR network with {layers} layers a module has depth {3 * layers}n + 2, got {depth}"
            )
        return (n, n, n)

    def _is_imagenet(self, variant: str) -> bool:
        return not self.linear and not variant.endswith("cifar") and self._depth(variant) in IMAGENET_STAGES

    def _depth(self, variant: str) -> int:
        match = re.fullmatch(rf"{self.name}(\d{{1,4}})(cifar)?", variant)
        if match is None:
            raise InputError(f"unknown variant {variant!r} of {self.name} (known: {', '.join(self.variants)})")
        return int(match[1])


RESNET = ResNetFamily(
    "resnet",
    (
        *("resnet20", "resnet32", "resnet44", "resnet56", "resnet110"),
        *(f"resnet{depth}" for depth in IMAGENET_STAGES),
    ),
)
FCRESNET = ResNetFamily("fcresnet", ("fcresnet20", "fcresnet32"), linear=True)
PLAIN = ResNetFamily("plain", ("plain20", "plain32", "plain44", "plain56", "plain18", "plain34"), skips=False)
