"""Scales that are float16 numbers, and weights rounded to them: what a graph in half precision needs of a decision.

A scale is rounded before the integers are, so that the rounding of the scale costs nothing. The graph itself is made
by `edgeres.graph.half`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeres.graph.view import GraphView
from edgeres.quantize.calibrators import LEVELS
from edgeres.quantize.decision import Decision, IntegerWeight, rounded_at, row_scale
from edgeres.quantize.placement import Placement


def half_decision(model: onnx.ModelProto, placement: Placement, decision: Decision) -> Decision:
    """`decision` with every scale a float16 number, and the weights rounded to those scales.

    Weights decided elsewhere keep their integers; their scales are rounded to the nearest float16.
    """
    view = GraphView(model)
    weights = {name: IntegerWeight(given.values, _nearest(given.scale)) for name, given in decision.weights.items()}
    for layer in view.layers:
        name = layer.input[1]
        if layer.name in placement.layers and name not in weights:
            weight = decision.tensors[name] if name in decision.tensors else view.value(name)
            weights[name] = rounded_at(_up(row_scale(np.asarray(weight))), np.asarray(weight))
    amax = {name: float(_up(np.asarray(bound / LEVELS))) * LEVELS for name, bound in decision.amax.items()}
    return Decision(amax, weights, decision.tensors)


def _up(scale: NDArray[Any]) -> NDArray[np.float32]:
    """The next float16 number, not below `scale` and not 0; float32."""
    half = scale.astype(np.float16)
    half = np.where(half.astype(np.float64) < scale, np.nextafter(half, np.float16(np.inf)), half)
    return np.maximum(half, np.finfo(np.float16).smallest_subnormal).astype(np.float32)


def _nearest(scale: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.maximum(scale.astype(np.float16), np.finfo(np.float16).smallest_subnormal).astype(np.float32)
