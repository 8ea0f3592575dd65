"""Models that show what their modules put out beside their logits.

A module's output is the last tensor whose node bears its name (`layer2.1.relu_1`), in a checkpoint what the unit of
that name returns. In graphs that name no modules it is what each residual addition makes, under the tensor's name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeres.core.artifacts import Checkpoint, Model, OnnxModel
from edgeres.core.errors import InputError
from edgeres.graph.blocks import blocks_in, module_of
from edgeres.graph.session import GraphSession
from edgeres.graph.view import QDQ, GraphView
from edgeres.runtime import runner_for
from edgeres.runtime.runner import Images, RunnerOptions, infer_all

LOGITS = ""
Values = dict[str, NDArray[np.float32]]
Probe = Callable[[Images], Values]  # float32 (N, C, H, W) -> module -> output, LOGITS -> (N, K)
_PAIR = QDQ | {"Cast"}


@contextmanager
def probe_for(model: Model, way: str, threads: int | None = None) -> Iterator[tuple[str, Probe]]:
    """(runtime as it stands in reports, Probe) of `model` executed in a `way`: torch, literal or fused.

    `fused` shows no module: an output inside the graph would keep ONNX Runtime from fusing there.

    Raises:
        InputError: this `way` does not execute such a file.
    """
    runtime = "torch" if way == "torch" else "onnxruntime"
    runner = runner_for(model, RunnerOptions(threads=threads, literal_qdq=way != "fused"), runtime=runtime)
    with runner:
        if way == "fused":
            yield runner.name, lambda images: {LOGITS: infer_all(runner, images)}
        elif isinstance(model, Checkpoint):
            yield runner.name, _network_probe(model)
        elif isinstance(model, OnnxModel):
            yield runner.name, _graph_probe(model) if way == "torch" else _session_probe(model, threads)
        else:
            raise InputError(f"{model.path}: the modules of an engine cannot be seen")


def module_tensors(model: Any) -> dict[str, str]:
    """Module -> tensor, in the graph's order."""
    view = GraphView(model)
    nodes = [node for node in view.nodes if node.op_type not in _PAIR]
    named = {module: str(node.output[0]) for node in nodes if (module := module_of(node.name))}
    return named or {block.output: block.output for block in blocks_in(view)}


def _network_probe(checkpoint: Checkpoint) -> Probe:
    import torch

    from edgeres.models.weights import load_network

    network, seen = load_network(checkpoint), dict[str, Any]()
    for name, unit in network.units():
        unit.register_forward_hook(lambda _, __, output, name=name: seen.__setitem__(name, output.numpy()))

    @torch.inference_mode()
    def probe(images: Images) -> Values:
        logits = network(torch.from_numpy(images)).numpy()
        return {**seen, LOGITS: logits}

    return probe


def _graph_probe(model: OnnxModel) -> Probe:
    import torch

    from edgeres.graph.execute import GraphNetwork

    network, tensors = GraphNetwork(model.proto), module_tensors(model.proto)

    @torch.inference_mode()
    def probe(images: Images) -> Values:
        found = network.values(torch.from_numpy(images), [*tensors.values(), network.output])
        values = {name: found[tensor].float().numpy() for name, tensor in tensors.items()}
        return {**values, LOGITS: found[network.output].float().numpy()}

    return probe


def _session_probe(model: OnnxModel, threads: int | None) -> Probe:
    """A session of a copy whose modules' outputs are the graph's too."""
    tensors, view, batch = module_tensors(model.proto), GraphView(model.proto), model.batch
    feed, names = view.inputs[0], [view.outputs[0], *tensors.values()]
    session = GraphSession(model.proto, str(model.path), names, threads=threads)

    def probe(images: Images) -> Values:
        size = batch or len(images)
        padded = np.pad(images, [(0, -len(images) % size)] + [(0, 0)] * (images.ndim - 1))
        parts = [session.run({feed: padded[at : at + size]}) for at in range(0, len(padded), size)]
        whole = [np.concatenate([part[name] for part in parts])[: len(images)].astype(np.float32) for name in names]
        return dict(zip([LOGITS, *tensors], whole, strict=True))

    return probe
