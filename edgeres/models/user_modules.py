"""From Python: a user's torch module in, a trainable module with the user's own parameter names out."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from edgeres.core.artifacts import Checkpoint
from edgeres.core.config import config_from
from edgeres.core.errors import InputError
from edgeres.core.spec import ModelSpec, Preprocess, Task
from edgeres.models import check_module_names, network_from
from edgeres.models.network import Network
from edgeres.models.sources import from_module
from edgeres.models.weights import Weights, load_network, save_checkpoint, weights_without

log = logging.getLogger(__name__)


def trace(
    module: nn.Module, example: Tensor, path: Path, *, preprocess: Preprocess, classes: Sequence[str] = ()
) -> Checkpoint:
    """Writes the checkpoint of `module`, in evaluation mode, to `path`; every stage takes it from there.

    Args:
        module: gives float32 (N, K) for images.
        example: images (N, C, H, W); their size is the network's.
        path: a .safetensors file.
        preprocess: how an image becomes the input, as in training.
        classes: names of the K outputs in their order.

    Raises:
        InputError: it cannot be traced, or what was traced computes something else.
    """
    spec, weights = _traced(module, example, preprocess, tuple(classes))
    return save_checkpoint(weights, spec, path, stage="api.trace")


def load(source: Checkpoint) -> nn.Module:
    """The network of a checkpoint, in evaluation mode; its state_dict bears the names it was imported with."""
    return load_network(source)


def drop(module: nn.Module, names: Sequence[str], example: Tensor) -> nn.Module:
    """A copy of `module` without its residual modules `names`, for images as `example`; in training mode if that is.

    Dropout and the like are not in it: a warning names them. Raises InputError for what `trace` refuses, or a name that
    is no module that can be dropped.
    """
    spec, weights = _traced(module, example, Preprocess(mean=(0.0,), std=(1.0,)), ())
    check_module_names(spec, tuple(names))
    cut = spec.without(tuple(names))
    network = network_from(cut)
    network.load_state_dict(weights_without(weights, cut))
    return network.train(module.training)


def _traced(
    module: nn.Module, example: Tensor, preprocess: Preprocess, classes: tuple[str, ...]
) -> tuple[ModelSpec, Weights]:
    if example.ndim != 4:
        raise InputError(f"an example of images is (N, C, H, W), got {tuple(example.shape)}")
    _, channels, height, width = example.shape
    spec, shape = module.spec if isinstance(module, Network) else None, (channels, height, width)
    name = spec.variant if spec else type(module).__name__
    if spec and spec.input_shape == shape and (weights := _known(module, spec, shape)):
        said = {"preprocess": preprocess, "classes": classes, "task": "classes" if classes else spec.task}
        return config_from(ModelSpec, {**dict(spec), **said}, name), weights
    found = from_module(module, shape, name)
    if found.left_out:
        log.warning("%s: %s", name, found.left_out)
    task: Task = "classes" if classes else found.told
    return found.spec(name, name, task=task, preprocess=preprocess, classes=classes), found.weights


@torch.no_grad()
def _known(module: nn.Module, spec: ModelSpec, shape: tuple[int, int, int]) -> Weights | None:
    """Weights of a network that still computes what edgeres made of `spec`; None of one that was changed since."""
    own = copy.deepcopy(module).cpu().float().to(memory_format=torch.contiguous_format).eval()
    weights, made = own.state_dict(), network_from(spec).eval()
    with suppress(RuntimeError):  # of other keys or shapes
        made.load_state_dict(weights)
        images = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
        return weights if torch.equal(own(images), made(images)) else None
    return None
