"""Operators of residual networks beyond convolutions: gates, activations, attention, norms, shapes, upsampling."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from edgeres.core.errors import InputError

Attributes = dict[str, Any]
Operator = Callable[..., Any]
_RESIZES = {
    ("nearest", "asymmetric"): {"mode": "nearest"},
    ("linear", "half_pixel"): {"mode": "bilinear", "align_corners": False},
    ("linear", "pytorch_half_pixel"): {"mode": "bilinear", "align_corners": False},
    ("linear", "align_corners"): {"mode": "bilinear", "align_corners": True},
}


def _split(attributes: Attributes) -> Operator:
    axis = attributes.get("axis", 0)

    def run(x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
        if sizes is None:
            return x.tensor_split(attributes["num_outputs"], axis)
        return torch.split(x, sizes.tolist(), axis)

    return run


def _squeeze(attributes: Attributes) -> Operator:
    def run(x: Tensor, axes: Tensor | None = None) -> Tensor:
        dims = attributes.get("axes") if axes is None else axes.tolist()
        return x.squeeze() if dims is None else x.squeeze(tuple(dims))

    return run


def _unsqueeze(attributes: Attributes) -> Operator:
    def run(x: Tensor, axes: Tensor | None = None) -> Tensor:
        dims = attributes["axes"] if axes is None else axes.tolist()
        rank = x.ndim + len(dims)
        for dim in sorted(dim % rank for dim in dims):
            x = x.unsqueeze(dim)
        return x

    return run


def _gather(attributes: Attributes) -> Operator:
    axis = attributes.get("axis", 0)

    def run(x: Tensor, index: Tensor) -> Tensor:
        found = x.index_select(axis, index.reshape(-1).to(x.device) % x.shape[axis])
        shape = [*x.shape]
        shape[axis % x.ndim : axis % x.ndim + 1] = index.shape
        return found.reshape(shape)

    return run


def _shape(attributes: Attributes) -> Operator:
    """Sizes are read by Python, wherever the images are."""
    first, last = attributes.get("start", 0), attributes.get("end")
    return lambda x: torch.tensor(x.shape[first:last], dtype=torch.int64, device="cpu")


def _layer_norm(attributes: Attributes) -> Operator:
    axis, epsilon = attributes.get("axis", -1), attributes.get("epsilon", 1e-5)

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return functional.layer_norm(x, x.shape[axis:] if axis < 0 else x.shape[axis % x.ndim :], weight, bias, epsilon)

    return run


def _group_norm(attributes: Attributes) -> Operator:
    groups, epsilon = attributes["num_groups"], attributes.get("epsilon", 1e-5)

    def run(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if weight.numel() == groups != x.shape[1]:  # one number a group, as before opset 21
            weight, bias = (one.repeat_interleave(x.shape[1] // groups) for one in (weight, bias))
        return functional.group_norm(x, groups, weight, bias, epsilon)

    return run


def _resize(attributes: Attributes) -> Operator:
    kind = attributes.get("mode", b"nearest").decode()
    place = attributes.get("coordinate_transformation_mode", b"half_pixel").decode()
    if (kind, place) not in _RESIZES or attributes.get("nearest_mode", b"floor") not in (
        b"floor",
        b"round_prefer_floor",
    ):
        raise InputError(f"torch cannot execute Resize with mode {kind} and coordinates {place}")

    def run(x: Tensor, _: Tensor | None = None, scales: Tensor | None = None, sizes: Tensor | None = None) -> Tensor:
        if sizes is not None and sizes.numel():
            wanted = [int(size) for size in sizes.tolist()][2:]
        else:
            assert scales is not None
            wanted = [math.floor(size * scale) for size, scale in zip(x.shape[2:], scales.tolist()[2:], strict=True)]
        return functional.interpolate(x, wanted, **_RESIZES[kind, place])  # type: ignore[arg-type]

    return run


def _conv_transpose(attributes: Attributes) -> Operator:
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    if (top, left) != (bottom, right) or "output_shape" in attributes:
        raise InputError("torch cannot execute a ConvTranspose with uneven padding or a stated output shape")

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return functional.conv_transpose2d(
            x, weight, bias, attributes.get("strides", 1), (top, left), attributes.get("output_padding", 0),
            attributes.get("group", 1), attributes.get("dilations", 1),
        )  # fmt: skip

    return run


def _reduced_by(function: Callable[[Tensor, list[int], bool], Tensor]) -> Callable[[Attributes], Operator]:
    def make(attributes: Attributes) -> Operator:
        keep = bool(attributes.get("keepdims", 1))

        def run(x: Tensor, axes: Tensor | None = None) -> Tensor:
            dims = attributes.get("axes", list(range(x.ndim))) if axes is None else axes.tolist()
            return function(x, dims, keep)

        return run

    return make


FUNCTIONS: dict[str, Callable[[Attributes], Operator]] = {
    "Sigmoid": lambda _: torch.sigmoid,
    "HardSigmoid": lambda a: lambda x: (a.get("alpha", 0.2) * x + a.get("beta", 0.5)).clamp(0, 1),
    "HardSwish": lambda _: functional.hardswish,
    "LeakyRelu": lambda a: lambda x: functional.leaky_relu(x, a.get("alpha", 0.01)),
    "PRelu": lambda _: lambda x, slope: torch.where(x < 0, slope * x, x),
    "Elu": lambda a: lambda x: functional.elu(x, a.get("alpha", 1.0)),
    "Gelu": lambda a: lambda x: functional.gelu(x, approximate=a.get("approximate", b"none").decode()),
    "Erf": lambda _: torch.erf,
    "Tanh": lambda _: torch.tanh,
    "Softplus": lambda _: functional.softplus,
    "Mish": lambda _: functional.mish,
    "Exp": lambda _: torch.exp,
    "Sqrt": lambda _: torch.sqrt,
    "Reciprocal": lambda _: torch.reciprocal,
    "Neg": lambda _: torch.neg,
    "Abs": lambda _: torch.abs,
    "Pow": lambda _: torch.pow,
    "Div": lambda _: torch.div,
    "Min": lambda _: torch.minimum,
    "Max": lambda _: torch.maximum,
    "Concat": lambda a: lambda *parts: torch.cat(parts, a["axis"]),
    "Split": _split,
    "Transpose": lambda a: lambda x: x.permute(a.get("perm", tuple(reversed(range(x.ndim))))),
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Gather": _gather,
    "Shape": _shape,
    "Expand": lambda _: lambda x, shape: x.expand(np.broadcast_shapes(x.shape, tuple(shape.tolist()))),
    "Softmax": lambda a: lambda x: x.softmax(a.get("axis", -1)),
    "LayerNormalization": _layer_norm,
    "GroupNormalization": _group_norm,
    "InstanceNormalization": lambda a: (
        lambda x, weight, bias: functional.instance_norm(x, weight=weight, bias=bias, eps=a.get("epsilon", 1e-5))
    ),
    "LpNormalization": lambda a: lambda x: x / x.norm(a.get("p", 2), dim=a.get("axis", -1), keepdim=True),
    "Resize": _resize,
    "ConvTranspose": _conv_transpose,
    "GlobalMaxPool": lambda _: lambda x: x.amax((2, 3), keepdim=True),
    "ReduceMean": _reduced_by(lambda x, dims, keep: x.mean(dims, keepdim=keep)),
    "ReduceSum": _reduced_by(lambda x, dims, keep: x.sum(dims, keepdim=keep)),
    "ReduceMax": _reduced_by(lambda x, dims, keep: x.amax(dims, keepdim=keep)),
    "ReduceL2": _reduced_by(lambda x, dims, keep: x.norm(dim=dims, keepdim=keep)),
}
