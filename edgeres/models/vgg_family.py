"""VGG with batch norm, the control without skips (Simonyan & Zisserman 2014).

A module is one convolution with its batch norm and ReLU. Dropping it passes its input on, new channels filled with
zeros as in a residual network's option A, so that every layer can be lesioned (Veit et al. 2016, section 4.1).
Pooling stays. The classifier is one linear layer after global average pooling, as is usual on CIFAR.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from edgeres.core.errors import InputError
from edgeres.core.spec import ModelSpec, Preprocess
from edgeres.models.family import CIFAR_INPUT, IMAGENET_INPUT, ModuleInfo

if TYPE_CHECKING:
    from edgeres.models.network import Network

STAGES = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
}
_WIDTHS = (64, 128, 256, 512, 512)
_IMAGENET_SUFFIX = "imagenet"


class VggFamily:
    """vgg11, vgg13, vgg16."""

    variants = tuple(STAGES)

    def defaults(self, variant: str) -> tuple[tuple[int, int, int], Preprocess]:
        """CIFAR's, or ImageNet's with the suffix `imagenet`."""
        self.stages(variant)
        return IMAGENET_INPUT if variant.endswith(_IMAGENET_SUFFIX) else CIFAR_INPUT

    def modules(self, spec: ModelSpec) -> tuple[ModuleInfo, ...]:
        """`layer1.0` ... in order: stage (between two poolings) and position in it."""
        if spec.options:
            raise InputError(f"{spec.variant} has no options, got {', '.join(spec.options)}")
        modules, channels = [], spec.input_shape[0]
        for stage, (count, out) in enumerate(zip(self.stages(spec.variant), _WIDTHS, strict=True), 1):
            for index in range(count):
                kind: Literal["identity", "projection"] = "identity" if channels == out else "projection"
                modules.append(ModuleInfo(f"layer{stage}.{index}", kind, channels, out, 1))
                channels = out
        return tuple(modules)

    def build(self, spec: ModelSpec) -> Network:
        """See `own_networks`."""
        from edgeres.models.own_networks import VggNet

        return VggNet(spec, self.modules(spec))

    def stages(self, variant: str) -> tuple[int, ...]:
        """Convolutions between poolings; raises InputError for an unknown variant."""
        stages = STAGES.get(variant.removesuffix(_IMAGENET_SUFFIX))
        if stages is None:
            raise InputError(f"unknown variant {variant!r} of vgg (known: {', '.join(self.variants)})")
        return stages


VGG = VggFamily()
