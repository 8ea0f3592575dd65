"""Models that show what their modules put out beside their logits.

A module's output is the last tensor whose node bears its name (`layer2.1.relu_1`), in a checkpoint what the unit of
that name returns. In every other graph it is what the module's addition makes, or the activation right behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeres.core.artifacts import Checkpoint, Model, OnnxModel
from edgeres.core.errors import InputError
from edgeres.core.onnx_file import image_input
from edgeres.core.spec import ModelSpec
from edgeres.graph.blocks import blocks_in, end_of, module_of
from edgeres.graph.plain import ends_in, last_softmax, plain
from edgeres.graph.session import GraphSession
from edgeres.graph.view import QDQ, GraphView, called
from edgeres.models.graph import chain_of, graph_without
from edgeres.runtime import runner_for
from edgeres.runtime.runner import Images, Runner, RunnerOptions, fed, infer_all, joined

if TYPE_CHECKING:
    from edgeres.models.graph_net import GraphNet

LOGITS = ""
Values = dict[str, NDArray[np.float32]]
Probe = Callable[[Images], Values]  # float32 (N, C, H, W) -> module -> output, LOGITS -> (N, K)
_PAIR = QDQ | {"Cast"}


@contextmanager
def probe_for(model: Model, way: str, threads: int | None = None) -> Iterator[tuple[str, Probe]]:
    """(runtime as it stands in reports, Probe) of `model` executed in a `way`: torch, literal or fused.

    `fused` shows no module: an output inside the graph would keep ONNX Runtime from fusing there.
    Raises InputError if this `way` does not execute such a file.
    """
    runtime = "torch" if way == "torch" else "onnxruntime"
    runner = runner_for(model, RunnerOptions(threads=threads, literal_qdq=way != "fused"), runtime=runtime)
    with runner:
        probe = _probe_of(runner, model, way, threads)
        is_softmax = isinstance(model, OnnxModel) and last_softmax(model.proto) is not None
        yield runner.name, _in_logarithms(probe, are_logits=way != "fused") if is_softmax else probe


def _probe_of(runner: Runner, model: Model, way: str, threads: int | None) -> Probe:
    if way == "fused":
        return lambda images: {LOGITS: infer_all(runner, images)}
    if isinstance(model, Checkpoint):
        return _network_probe(model)
    if isinstance(model, OnnxModel):
        return _graph_probe(model) if way == "torch" else _session_probe(model, threads)
    raise InputError(f"{model.path}: the modules of an engine cannot be seen")


def _in_logarithms(probe: Probe, *, are_logits: bool) -> Probe:
    """Of a network that ends in a softmax: logarithms of its probabilities, which are logits of the same ones."""
    smallest = np.finfo(np.float32).tiny

    def logarithms(images: Images) -> Values:
        values = probe(images)
        given = values[LOGITS]
        if are_logits:
            given = np.exp(given - given.max(1, keepdims=True))
            given /= given.sum(1, keepdims=True)
        return {**values, LOGITS: np.log(np.maximum(given, smallest))}

    return logarithms


def module_tensors(model: Any, spec: ModelSpec) -> dict[str, str]:
    """Module -> tensor, in the graph's order; of a network that brings its graph the modules are those of that."""
    view = GraphView(model)
    if spec.structure:
        links = [link for link in chain_of(spec).links if link.name not in spec.dropped]
        if found := {link.name: link.end for link in links if link.end in view.producers}:
            return found
    nodes = {called(node): node for node in view.nodes if node.op_type not in _PAIR}
    named = {module: str(node.output[0]) for name, node in nodes.items() if (module := module_of(name))}
    blocks = {block.name: end_of(view, block) for block in blocks_in(view) if not block.is_inside}
    return named if blocks.keys() <= named.keys() else blocks


def _network_probe(checkpoint: Checkpoint) -> Probe:
    import torch

    from edgeres.models.graph_net import GraphNet
    from edgeres.models.weights import load_network

    network, seen = load_network(checkpoint), dict[str, Any]()
    if isinstance(network, GraphNet):
        return _traced_probe(network, checkpoint.spec)
    for name, unit in network.units():
        unit.register_forward_hook(lambda _, __, output, name=name: seen.__setitem__(name, output.numpy()))

    @torch.inference_mode()
    def probe(images: Images) -> Values:
        logits = network(torch.from_numpy(images)).numpy()
        return {**seen, LOGITS: logits}

    return probe


def _traced_probe(network: GraphNet, spec: ModelSpec) -> Probe:
    """A graph's steps run in one go, in which no module is called."""
    import torch

    graph = graph_without(spec)
    tensors, ends = module_tensors(graph, spec), ends_in(graph)
    targets = tuple(dict.fromkeys([*tensors.values(), *ends]))
    steps = network.segment(tuple(GraphView(graph).inputs[:1]), targets, network.skips)

    @torch.inference_mode()
    def probe(images: Images) -> Values:
        made = steps.run(network, torch.from_numpy(images))
        values = dict(zip(steps.targets, made if isinstance(made, tuple) else (made,), strict=True))
        found = {name: values[tensor].numpy() for name, tensor in tensors.items()}
        return {**found, LOGITS: joined([values[end].numpy() for end in ends])}

    return probe


def _graph_probe(model: OnnxModel) -> Probe:
    import torch

    from edgeres.graph.execute import GraphNetwork

    graph = plain(model).proto
    network, tensors, ends = GraphNetwork(graph), module_tensors(graph, model.spec), ends_in(graph)

    @torch.inference_mode()
    def probe(images: Images) -> Values:
        found = network.values(torch.from_numpy(images), [*tensors.values(), *ends])
        values = {name: found[tensor].float().numpy() for name, tensor in tensors.items()}
        return {**values, LOGITS: joined([found[end].float().numpy() for end in ends])}

    return probe


def _session_probe(model: OnnxModel, threads: int | None) -> Probe:
    """A session of a copy whose modules' outputs are the graph's too."""
    tensors, batch = module_tensors(model.proto, model.spec), model.batch
    feed, shape = image_input(model.proto, model.path)
    ends = ends_in(model.proto)
    names = list(dict.fromkeys([*ends, *tensors.values()]))
    session = GraphSession(model.proto, str(model.path), names, threads=threads)

    def probe(images: Images) -> Values:
        size = batch or len(images)
        padded = np.pad(images, [(0, -len(images) % size)] + [(0, 0)] * (images.ndim - 1))
        pieces = (fed(padded[at : at + size], shape) for at in range(0, len(padded), size))
        parts = [session.run({feed: piece}) for piece in pieces]
        whole = {
            name: np.concatenate([part[name] for part in parts])[: len(images)].astype(np.float32) for name in names
        }
        return {LOGITS: joined([whole[end] for end in ends]), **{one: whole[name] for one, name in tensors.items()}}

    return probe
