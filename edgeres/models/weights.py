"""Checkpoints: weights in safetensors with the Card in the header; dropping a module is deleting its keys.

For inference a batch norm is folded into the layer before it, on the real modules and in float64:

    y = gamma (W x + b - mean) / sqrt(var + eps) + beta   =   W' x + b',   W' = gamma / sqrt(var + eps) W

A pair is folded only where the layer's output goes to that batch norm alone, which torch.fx finds by tracing; a batch
norm that follows an addition, as in pre-activation networks, stays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval
from torch.overrides import TorchFunctionMode

import edgeres
from edgeres.core.artifacts import CARD_KEY, Checkpoint
from edgeres.core.errors import InputError, few_of
from edgeres.core.files import write_bytes
from edgeres.core.spec import TRACED, Card, Cost, ModelSpec
from edgeres.models import network_from
from edgeres.models.contents import why_unreadable
from edgeres.models.network import Network, PadShortcut, in_fast_layout
from edgeres.models.weighted_layers import Operation

Weights = dict[str, Tensor]
_KEPT = 64  # specs whose shapes and costs are known: every file read or written asks for them
_LAYERS = (nn.Conv2d, nn.Linear)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


class _ShapesAlone(TorchFunctionMode):
    """For networks of our families without memory: counts multiply-accumulates, and passes over what changes no shape.

    Torch would do that in Python, slowly, and import its compiler for it: more than a second.
    """

    _FILLS = (nn.init.normal_, nn.init.uniform_, nn.init.constant_, nn.init.kaiming_uniform_)
    _METHODS = (Tensor.normal_, Tensor.uniform_, Tensor.fill_, Tensor.zero_, Tensor.add)  # addends are of one shape
    _PASSED_OVER = frozenset({*_FILLS, *_METHODS, functional.batch_norm, functional.relu})

    def __init__(self) -> None:
        super().__init__()
        self.macs = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if func in self._PASSED_OVER and (tensor := args[0] if args else given["tensor"]).is_meta:
            return tensor
        if func is functional.adaptive_avg_pool2d:  # to one pixel, in all our networks
            return args[0][..., :1, :1]
        if func not in {functional.conv2d, functional.linear}:
            return func(*args, **given)
        output = func(*args[:2], None, *args[3:])  # a bias changes no shape either
        self.macs += output.numel() * prod(args[1].shape[1:])
        return output


def cost_of(spec: ModelSpec) -> Cost:
    """Parameters and multiply-accumulates (of convolutions and linear layers) for one image; no weights are made."""
    return _cost_of(spec.model_dump_json())


@lru_cache(maxsize=_KEPT)
def _cost_of(text: str) -> Cost:
    spec = ModelSpec.model_validate_json(text)
    network, image = _network_without_memory(spec).eval(), torch.empty(1, *spec.input_shape, device="meta")
    params = sum(parameter.numel() for parameter in network.parameters())
    if spec.family == TRACED:  # any operator may stand there
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(image)
        return Cost(params=params, macs=counter.get_total_flops() // 2)
    with torch.no_grad(), _ShapesAlone() as shapes:
        network(image)
    return Cost(params=params, macs=shapes.macs)


def save_checkpoint(
    weights: Weights, spec: ModelSpec, path: Path, *, stage: str, parent: str | None = None
) -> Checkpoint:
    """Writes `weights` (checked against `spec`) and returns the artifact."""
    check_weights(weights, spec, f"what would be {path.name}")
    card = Card(spec=spec, cost=cost_of(spec), stage=stage, parent=parent, edgeres=edgeres.__version__)
    # copies: safetensors refuses tensors that share memory
    tensors = {key: torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor) for key, tensor in weights.items()}
    write_bytes(path, save(tensors, metadata={CARD_KEY: card.model_dump_json()}))
    return Checkpoint(path)


def load_weights(checkpoint: Checkpoint) -> Weights:
    """The tensors of the file; raises InputError if it is damaged."""
    try:
        tensors: Weights = load_file(checkpoint.path)
    except FileNotFoundError as err:
        raise InputError(f"{checkpoint.path} does not exist") from err
    except Exception as err:  # safetensors raises its own SafetensorError, a bare Exception
        raise InputError(why_unreadable(checkpoint.path)) from err
    return tensors


def load_network(checkpoint: Checkpoint) -> Network:
    """The network of the checkpoint in evaluation mode."""
    weights = load_weights(checkpoint)
    check_weights(weights, checkpoint.spec, str(checkpoint.path))
    network = network_from(checkpoint.spec)
    network.load_state_dict(weights)
    return network.eval()


def checkpoint_without(source: Checkpoint, dropped: tuple[str, ...], path: Path) -> Checkpoint:
    """Writes `source` without the modules `dropped` to `path`: their keys are gone, nothing else changes."""
    spec = source.spec.without(dropped)
    weights = weights_without(load_weights(source), spec)
    return save_checkpoint(weights, spec, path, stage="prune", parent=source.sha256)


def weights_without(weights: Weights, spec: ModelSpec) -> Weights:
    """The entries of `weights` that the network of `spec` has, which is what dropping modules means."""
    kept = expected_shapes(spec)
    return {key: tensor for key, tensor in weights.items() if key in kept}


def expected_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Key -> shape of every entry of the network's state."""
    return dict(_shapes_of(spec.model_dump_json()))


@lru_cache(maxsize=_KEPT)
def _shapes_of(text: str) -> dict[str, tuple[int, ...]]:
    network = _network_without_memory(ModelSpec.model_validate_json(text))
    return {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}


def _network_without_memory(spec: ModelSpec) -> Network:
    with torch.device("meta"), _ShapesAlone():
        return network_from(spec)


def check_weights(weights: Weights, spec: ModelSpec, where: str) -> None:
    """Raises InputError that lists missing, unexpected and misshaped keys, if there are any."""
    if problems := misfits(weights, expected_shapes(spec)):
        raise InputError(f"{where} does not fit {spec.variant}: keys {problems}")


def misfits(weights: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> str:
    """Missing, unexpected and misshaped keys, a few of each by name; nothing where all fit."""
    shapes = [
        f"{key} is {tuple(weights[key].shape)}, should be {shape}"
        for key, shape in expected.items()
        if key in weights and tuple(weights[key].shape) != shape
    ]
    missing, unexpected = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    found = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    return "; ".join(f"{len(names)} {what} ({few_of(names)})" for what, names in found.items() if names)


class _Tracer(fx.Tracer):
    """Does not look into modules that decide by the shape of their input."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, (PadShortcut, Operation, nn.Conv2d)) or super().is_leaf_module(m, module_qualified_name)


def load_folded(checkpoint: Checkpoint) -> Network:
    """The network for inference only: batch norms folded, channels-last, about 1.5 times as fast on a CPU.

    Logits agree with `load_network`'s to float32 rounding.
    """
    network = load_network(checkpoint)
    fold_batch_norms(network)
    return in_fast_layout(network)


def fold_batch_norms(network: Network) -> list[str]:
    """Folds in place (evaluation mode, float32 in and out); returns the names of the folded batch norms.

    Every linear layer leaves with a bias, so that it becomes a Gemm whatever follows it.
    """
    network.eval().double()
    folded = []
    # folding changes modules, not who calls whom
    calls = [node for node in _Tracer().trace(network).nodes if node.op == "call_module"]
    with torch.no_grad():
        while pairs := _pairs_among(calls, network):
            for layer_name, norm_name in pairs:
                layer, norm = network.get_submodule(layer_name), network.get_submodule(norm_name)
                fuse = fuse_conv_bn_eval if isinstance(layer, nn.Conv2d) else fuse_linear_bn_eval
                network.set_submodule(layer_name, fuse(layer, norm))  # type: ignore[arg-type,type-var]
                network.set_submodule(norm_name, nn.Identity())
                folded.append(norm_name)
        for module in network.modules():
            if isinstance(module, nn.Linear) and "bias" not in dict(module.named_parameters()):
                module.bias = nn.Parameter(module.weight.new_zeros(module.out_features))
    network.float()
    return folded


def _pairs_among(calls: list[fx.Node], network: Network) -> list[tuple[str, str]]:
    """(layer, batch norm) where the layer's only reader is the batch norm and both are called once."""
    times_called = Counter(str(node.target) for node in calls)
    pairs = []
    for norm in calls:
        if isinstance(network.get_submodule(str(norm.target)), _NORMS):
            layer = _only_source(network, norm)
            if layer and times_called[str(layer.target)] == times_called[str(norm.target)] == 1:
                pairs.append((str(layer.target), str(norm.target)))
    return pairs


def _only_source(network: Network, norm: fx.Node) -> fx.Node | None:
    """The layer whose output goes to `norm` alone, seen through the identities of earlier folding."""
    node: object = norm.args[0]
    while isinstance(node, fx.Node) and node.op == "call_module" and len(node.users) == 1:
        module = network.get_submodule(str(node.target))
        if isinstance(module, _LAYERS):
            return node
        if not isinstance(module, nn.Identity):
            return None
        node = node.args[0]
    return None
