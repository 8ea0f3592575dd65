"""Families of networks: how a name becomes a spec, a list of modules and a network.

FAMILIES    name -> Family; a new family is one file and one line here
spec_from_arch("resnet20", ...)     spec with the family's defaults
modules_of(spec), network_from(spec), load_network(checkpoint), save_checkpoint(...)
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from edgeres.core.errors import InputError, did_you_mean
from edgeres.core.names import lookup, resolve
from edgeres.core.spec import FROM_ONNX, TRACED, ModelSpec, Preprocess
from edgeres.models.family import Family, ModuleInfo

if TYPE_CHECKING:
    from edgeres.models.network import Network

FAMILIES = {
    "resnet": "edgeres.models.resnet_family:RESNET",
    "fcresnet": "edgeres.models.resnet_family:FCRESNET",
    "plain": "edgeres.models.resnet_family:PLAIN",
    "vgg": "edgeres.models.vgg_family:VGG",
}

_BY_GRAPH = "edgeres.models.graph_family:GRAPH"


def family_named(name: str) -> Family:
    """The family; raises InputError if unknown."""
    if name == FROM_ONNX:
        raise InputError("a network that came as an ONNX file cannot be rebuilt by name, to be trained or pruned")
    family: Family = resolve(_BY_GRAPH if name == TRACED else lookup(FAMILIES, name, "family"))
    return family


def spec_from_arch(
    arch: str,
    *,
    num_classes: int,
    preprocess: Preprocess | None = None,
    input_shape: tuple[int, int, int] | None = None,
    classes: tuple[str, ...] = (),
    options: dict[str, str | int | float] | None = None,
) -> ModelSpec:
    """The whole network called `arch` (`resnet20`, `resnet50`, `plain20`, `vgg11`, `fcresnet20`).

    Without `input_shape` and `preprocess` the variant's usual ones are taken (CIFAR's or ImageNet's). Raises InputError
    for an unknown name or an option the family does not have.
    """
    match = re.fullmatch(r"([a-z]+)(\d.*)", arch)
    if match is None or match[1] not in FAMILIES:
        known = example_variants()
        raise InputError(f"unknown architecture {arch!r}{did_you_mean(arch, known)} (known: {', '.join(known)})")
    family = family_named(match[1])
    shape, default_preprocess = family.defaults(arch)
    spec = ModelSpec(
        family=match[1],
        variant=arch,
        num_classes=num_classes,
        input_shape=input_shape or shape,
        preprocess=preprocess or default_preprocess,
        classes=classes,
        options=options or {},
    )
    family.modules(spec)
    return spec


def example_variants() -> list[str]:
    """The variants users ask for by name; every other depth of the CIFAR family works too."""
    return [variant for name in FAMILIES for variant in family_named(name).variants]


def modules_of(spec: ModelSpec) -> tuple[ModuleInfo, ...]:
    """The modules of the ORIGINAL network in order of execution, dropped ones included."""
    return family_named(spec.family).modules(spec)


def check_module_names(spec: ModelSpec, names: tuple[str, ...]) -> None:
    """Raises InputError if one of `names` is no module of the network or has been dropped already."""
    known = [module.name for module in modules_of(spec)]
    left = [name for name in known if name not in spec.dropped]
    for name in names:
        if name not in known:
            see = f"it has {', '.join(left) or 'none'}" if spec.structure else f"see: edgeres show {spec.variant}"
            raise InputError(f"{spec.variant} has no module {name!r}{did_you_mean(name, left)} ({see})")
        if name in spec.dropped:
            raise InputError(f"module {name} has been dropped already (dropped: {', '.join(spec.dropped)})")


def network_from(spec: ModelSpec) -> Network:
    """A freshly initialised network without the dropped modules (torch's global generator decides the weights)."""
    check_module_names(spec.model_copy(update={"dropped": ()}), spec.dropped)
    network = family_named(spec.family).build(spec)
    network.spec = spec
    return network
