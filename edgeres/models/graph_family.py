"""Networks that no name rebuilds: the graph in the checkpoint says what they are."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from edgeres.core.errors import InputError, require
from edgeres.core.spec import ModelSpec, Preprocess
from edgeres.models.family import ModuleInfo

if TYPE_CHECKING:
    import onnx

    from edgeres.graph.chain import ModuleChain
    from edgeres.models.network import Network

_CHANNELS_AT = 1


class GraphFamily:
    """The family of every network that brings its structure along."""

    variants: tuple[str, ...] = ()

    def defaults(self, variant: str) -> tuple[tuple[int, int, int], Preprocess]:
        """There are none: what the file says counts."""
        raise InputError(f"{variant} came as a graph and is rebuilt from its file alone")

    def modules(self, spec: ModelSpec) -> tuple[ModuleInfo, ...]:
        """The residual modules that can be dropped, in order of execution."""
        return _modules_of(structure_of(spec))

    def build(self, spec: ModelSpec) -> Network:
        """See `graph_net`."""
        from edgeres.graph.structure import unpacked
        from edgeres.models.graph_net import GraphNet

        return GraphNet(unpacked(structure_of(spec)), spec.dropped)


def structure_of(spec: ModelSpec) -> str:
    """The whole network's packed graph; raises InputError if the file brings none."""
    if spec.structure is None:
        raise InputError(f"{spec.variant} says that it is a graph and brings none; import it again")
    require("onnx", "onnx")
    return spec.structure


def graph_without(spec: ModelSpec) -> onnx.ModelProto:
    """The graph without weights that is left after dropping what `spec` says."""
    from edgeres.graph.structure import unpacked, without

    structure = unpacked(structure_of(spec))
    links = {link.name: link.block for link in chain_of(spec).links}
    gone = [links[name] for name in spec.dropped]
    return without(structure, {block.output: block.skip for block in gone}) if gone else structure


def chain_of(spec: ModelSpec) -> ModuleChain:
    """The whole network as a chain."""
    return _chain_of(structure_of(spec))


@lru_cache(maxsize=8)
def _chain_of(structure: str) -> ModuleChain:
    from edgeres.graph.chain import chain_in, joined
    from edgeres.graph.structure import unpacked
    from edgeres.graph.view import GraphView

    return chain_in(GraphView(joined(unpacked(structure))))


@lru_cache(maxsize=8)
def _modules_of(structure: str) -> tuple[ModuleInfo, ...]:
    from edgeres.graph.normal import shapes_in
    from edgeres.graph.structure import unpacked

    shapes = shapes_in(unpacked(structure))
    infos = []
    for link in _chain_of(structure).links:
        before, after = (shapes.get(tensor, ()) for tensor in (link.block.source, link.block.output))
        is_identity = link.block.skip == link.block.source
        kind: Literal["identity", "projection"] = "identity" if is_identity else "projection"
        channels = [shape[_CHANNELS_AT] if len(shape) > _CHANNELS_AT else 0 for shape in (before, after)]
        stride = before[-1] // after[-1] if len(before) == len(after) == 4 and after[-1] else 1
        infos.append(ModuleInfo(link.name, kind, channels[0], channels[1], max(1, stride)))
    return tuple(infos)


GRAPH = GraphFamily()
