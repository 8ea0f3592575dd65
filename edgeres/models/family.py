"""What a family of networks has to say: kept this small so that traced networks can join later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, get_args

from edgeres.core.spec import ModelSpec, Preprocess

if TYPE_CHECKING:
    from edgeres.models.network import Network

CIFAR_PREPROCESS = Preprocess(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
RESIZE_RATIO = 256 / 224  # shorter side over crop, as usual on ImageNet
IMAGENET_PREPROCESS = Preprocess(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), resize=256)
CIFAR_INPUT, IMAGENET_INPUT = ((3, 32, 32), CIFAR_PREPROCESS), ((3, 224, 224), IMAGENET_PREPROCESS)

Ordering = Literal["original", "bn-after-add", "relu-before-add", "relu-only-preact", "full-preact"]
ORDERINGS: tuple[Ordering, ...] = get_args(Ordering)


@dataclass(frozen=True)
class ModuleInfo:
    """One module that can be dropped, named as in the original network.

    `identity`: input and output have the same shape. `projection`: they differ (or a projection is learned); what is
    left after dropping is the shortcut W.
    """

    name: str
    kind: Literal["identity", "projection"]
    in_channels: int
    out_channels: int
    stride: int


@dataclass(frozen=True)
class Layout:
    """The plan of a residual network or its control: everything `build` needs, nothing torch."""

    imagenet: bool  # the stem of such networks
    linear: bool
    skips: bool
    ordering: Ordering
    shortcut: Literal["A", "B", "C"]
    bottleneck: bool
    layers: int
    width: int
    modules: tuple[ModuleInfo, ...]

    @property
    def preactivation(self) -> bool:
        """Whether modules begin with their activation, so that the network ends with one."""
        return self.ordering in {"relu-only-preact", "full-preact"}


class Family(Protocol):
    """A family of networks; nothing here but `build` imports torch."""

    variants: tuple[str, ...]

    def defaults(self, variant: str) -> tuple[tuple[int, int, int], Preprocess]:
        """Usual input shape (C, H, W) and preprocessing of the variant; raises InputError for an impossible one."""

    def modules(self, spec: ModelSpec) -> tuple[ModuleInfo, ...]:
        """The original network's modules in order of execution; raises InputError for options it does not have."""

    def build(self, spec: ModelSpec) -> Network:
        """The network without the dropped modules, freshly initialised."""
