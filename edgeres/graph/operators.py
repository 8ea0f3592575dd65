"""The operators of residual networks in torch: OPERATORS[op](attributes) -> function of the node's inputs."""

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
_RANGES = {torch.int8: (-128, 127), torch.uint8: (0, 255), torch.int16: (-32768, 32767), torch.uint16: (0, 65535)}

_ROW_RANK = 3  # of the weight of a convolution over rows, such as efficient channel attention has
_PAD_MODES = {b"constant": "constant", b"reflect": "reflect", b"edge": "replicate"}


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


def _conv(attributes: Attributes) -> Operator:
    stride, dilation, groups = attributes.get("strides", 1), attributes.get("dilations", 1), attributes.get("group", 1)
    before, padding = _padding(attributes)

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        x = functional.pad(x, before) if before else x
        kind = functional.conv1d if weight.ndim == _ROW_RANK else functional.conv2d
        return kind(x, weight, bias, stride, padding, dilation, groups)

    return run


def _padding(attributes: Attributes) -> tuple[list[int] | None, list[int]]:
    """(padding to apply before, as torch's pad wants it, or None; padding of the operator itself)."""
    if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise InputError(
            f"torch cannot execute auto_pad = {attributes['auto_pad'].decode()}; export with explicit pads"
        )
    pads = list(attributes.get("pads", (0, 0, 0, 0)))
    if len(pads) == 2 and pads[0] == pads[1]:
        return None, pads[:1]
    if len(pads) != 4:
        raise InputError(f"torch cannot execute {len(pads) // 2} dimensions with pads {pads}; edgeres takes images")
    top, left, bottom, right = pads
    if (top, left) == (bottom, right):
        return None, [top, left]
    return [left, right, top, bottom], [0, 0]


def _gemm(attributes: Attributes) -> Operator:
    alpha, beta = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)

    def run(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        a = a.T if attributes.get("transA", 0) else a
        b = b if attributes.get("transB", 0) else b.T
        if alpha == beta == 1:
            return functional.linear(a, b, c)
        product: Tensor = alpha * functional.linear(a, b)
        return product if c is None else product + beta * c

    return run


def _max_pool(attributes: Attributes) -> Operator:
    before, padding = _padding(attributes)
    size, stride = attributes["kernel_shape"], attributes.get("strides", 1)
    ceil = bool(attributes.get("ceil_mode", 0))

    def run(x: Tensor) -> Tensor:
        x = functional.pad(x, before, value=float("-inf")) if before else x
        return functional.max_pool2d(x, size, stride, padding, attributes.get("dilations", 1), ceil)

    return run


def _average_pool(attributes: Attributes) -> Operator:
    before, padding = _padding(attributes)
    if before:
        raise InputError("torch cannot execute an average pooling with uneven padding")
    include, ceil = bool(attributes.get("count_include_pad", 0)), bool(attributes.get("ceil_mode", 0))
    size, stride = attributes["kernel_shape"], attributes.get("strides", 1)
    return lambda x: functional.avg_pool2d(x, size, stride, padding, ceil, include)


def _flatten(attributes: Attributes) -> Operator:
    axis = attributes.get("axis", 1)
    return lambda x: x.flatten(axis) if axis == 1 else x.reshape(int(x.shape[:axis].numel()), -1)


def _slice(_: Attributes) -> Operator:
    def run(x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None) -> Tensor:
        dims = range(len(starts)) if axes is None else axes.tolist()
        pace = [1] * len(starts) if steps is None else steps.tolist()
        index = [slice(None)] * x.ndim
        for dim, start, end, step in zip(dims, starts.tolist(), ends.tolist(), pace, strict=True):
            index[dim] = slice(start, end, step)
        return x[tuple(index)]

    return run


def _pad(attributes: Attributes) -> Operator:
    mode = _PAD_MODES.get(attributes.get("mode", b"constant"))
    if mode is None:
        raise InputError(f"torch cannot execute Pad with mode {attributes['mode'].decode()}")

    def run(x: Tensor, pads: Tensor, value: Tensor | None = None, axes: Tensor | None = None) -> Tensor:
        amounts = pads.tolist()
        half = len(amounts) // 2
        dims = range(half) if axes is None else axes.tolist()
        by_dim = {dim % x.ndim: (amounts[i], amounts[half + i]) for i, dim in enumerate(dims)}
        flat = [amount for dim in reversed(range(x.ndim)) for amount in by_dim.get(dim, (0, 0))]
        if mode == "constant":
            return functional.pad(x, flat, value=0.0 if value is None else float(value))
        return functional.pad(x, flat[: 2 * (x.ndim - 2)], mode=mode)

    return run


def _batch_norm(attributes: Attributes) -> Operator:
    epsilon = attributes.get("epsilon", 1e-5)
    return lambda x, weight, bias, mean, variance: functional.batch_norm(
        x, mean, variance, weight, bias, training=False, eps=epsilon
    )


def _reshape(_: Attributes) -> Operator:
    def run(x: Tensor, shape: Tensor) -> Tensor:
        sizes = [x.shape[i] if size == 0 else size for i, size in enumerate(shape.tolist())]
        return x.reshape(len(x), *sizes[1:]) if x.ndim > 1 and sizes[0] in (1, -1) else x.reshape(sizes)

    return run


def _quantize(attributes: Attributes) -> Operator:
    axis = attributes.get("axis", 1)

    def run(x: Tensor, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
        low, high = _RANGES[torch.uint8 if zero_point is None else zero_point.dtype]
        offset = 0 if zero_point is None else _along(zero_point, x, axis)
        return (torch.round(x / _along(scale, x, axis)) + offset).clamp(low, high)

    return run


def _dequantize(attributes: Attributes) -> Operator:
    axis = attributes.get("axis", 1)

    def run(x: Tensor, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
        shifted = x.to(scale.dtype) if zero_point is None else x.to(scale.dtype) - _along(zero_point, x, axis)
        return shifted * _along(scale, x, axis)

    return run


def _along(parameter: Tensor, x: Tensor, axis: int) -> Tensor:
    """A scale or zero point shaped to broadcast over `x`."""
    if parameter.ndim == 0 or parameter.numel() == 1:
        return parameter.reshape(())
    shape = [1] * x.ndim
    shape[axis] = -1
    return parameter.reshape(shape)


def _cast(attributes: Attributes) -> Operator:
    kinds = {1: torch.float32, 10: torch.float16, 11: torch.float64, 7: torch.int64, 6: torch.int32}
    return lambda x: x.to(kinds[attributes["to"]])


def _clip(attributes: Attributes) -> Operator:
    def run(x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
        floor, ceiling = attributes.get("min", low), attributes.get("max", high)
        return x.clamp(None if floor is None else float(floor), None if ceiling is None else float(ceiling))

    return run


OPERATORS: dict[str, Callable[[Attributes], Operator]] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": lambda _: torch.matmul,
    "Relu": lambda _: torch.relu,
    "Clip": _clip,
    "Add": lambda _: torch.add,
    "Sub": lambda _: torch.sub,
    "Mul": lambda _: torch.mul,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": lambda _: lambda x: x.mean((2, 3), keepdim=True),
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Slice": _slice,
    "Pad": _pad,
    "BatchNormalization": _batch_norm,
    "Identity": lambda _: lambda x: x,
    "Cast": _cast,
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
    **FUNCTIONS,
}
