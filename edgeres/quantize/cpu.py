"""A graph that ONNX Runtime's CPU provider fuses into integer kernels: QLinearConv, QLinearAdd, QGemm.

    activations   uint8, x = scale * (q - zero_point) over [lo, hi] with 0 inside; a ReLU disappears in lo = 0
    weights       int8 per output channel, zero point 0, amax = 127 steps (63 where sums of two products must fit in
                  16 bits: x86 without VNNI or AMX adds u8 x s8 products in saturating int16)
    biases        int32, scale = scale of the input times scale of the weight

TensorRT refuses such a file: it wants zero points of 0 and float biases. Source: ONNX Runtime documentation, "Quantize
ONNX models", data type selection and reduce_range.
"""

from __future__ import annotations

import platform
from collections.abc import Collection
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeres.core.environment import cpu_flags
from edgeres.core.errors import InputError
from edgeres.quantize.decision import Decision, rounded_at, row_scale
from edgeres.quantize.insert import PairWriter
from edgeres.quantize.placement import Placement, Point

ReduceRange = Literal["auto", "on", "off"]
_LEVELS, _REDUCED_LEVELS = 127, 63
_STEPS = 255
_TINY = float(np.finfo(np.float32).tiny) * _STEPS
_MOST_BIAS = 1 << 30  # steps of a bias; half of int32, so that the products fit beside it
_WIDE = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})


def has_wide_sums(flags: Collection[str], architecture: str) -> bool:
    """Whether a CPU adds int8 products in 32 bits: Arm always, x86 with VNNI or AMX among its `flags`."""
    return architecture.lower() in {"aarch64", "arm64"} or not _WIDE.isdisjoint(flags)


def reduces_range(choice: ReduceRange) -> bool:
    """Whether weights get 7 bits; `auto` asks this machine's CPU and takes 7 where it cannot tell."""
    return choice == "on" or (choice == "auto" and not has_wide_sums(cpu_flags(), platform.machine()))


def affine_from(low: float, high: float) -> tuple[np.float32, np.uint8]:
    """Scale and zero point of uint8 that cover [low, high] and represent 0 exactly: x = scale * (q - zero_point)."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max(high - low, _TINY) / _STEPS
    return np.float32(scale), np.uint8(np.clip(np.rint(-low / scale), 0, _STEPS))


def with_affine_pairs(
    model: onnx.ModelProto, placement: Placement, decision: Decision, *, reduce_range: bool
) -> onnx.ModelProto:
    """A copy of the float `model` with the pairs of `cpu_placement_of`.

    [lo, hi] = [-amax, amax] within the decision's `extremes`.
    """
    levels = _REDUCED_LEVELS if reduce_range else _LEVELS
    affine = {point.tensor: _affine_of(point, decision) for point in placement.points}
    writer = PairWriter(model, placement, decision)

    def quantize(layer: onnx.NodeProto, source: str) -> None:
        """Weight and bias; scales of the weight keep the bias within int32."""
        name, scale = layer.input[2] if len(layer.input) > 2 else "", np.float64(affine[source][0])
        bias = np.asarray(writer.draft.value(name), np.float64) if name else np.zeros(1)
        smallest = (np.abs(bias) / scale / _MOST_BIAS).astype(np.float32)
        weight = writer.add_weight(
            layer, lambda rows: rounded_at(np.maximum(row_scale(rows, levels), smallest), rows, levels)
        )
        if name:
            layer.input[2] = _add_bias(writer, f"{layer.name}.bias", bias, scale * weight.scale)

    return writer.written(lambda point: affine[point.tensor], quantize)


def _affine_of(point: Point, decision: Decision) -> tuple[np.float32, np.uint8]:
    amax, (low, high) = decision.amax[point.scale_of], decision.extremes[point.scale_of]
    if low == high == 0:  # never seen alive: what it may hold elsewhere is kept up to amax
        return affine_from(-amax, amax)
    return affine_from(max(low, -amax), min(high, amax))


def _add_bias(writer: PairWriter, name: str, values: NDArray[np.float64], scale: NDArray[np.float64]) -> str:
    """Stored anew for each layer: its scale depends on the layer's input."""
    rows = scale.astype(np.float32)
    steps = np.rint(values / rows)
    if np.abs(steps).max() > np.iinfo(np.int32).max:
        raise InputError(f"{name!r} does not fit in int32 steps of its weights; quantize it for tensorrt instead")
    return writer.add_integers(f"{name}.int32", steps.astype(np.int32), rows, f"{name}.dequantized")
