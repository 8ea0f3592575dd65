"""Turns any Q/DQ graph into one that TensorRT fuses, from what the graph itself knows.

All pairs are taken out, their ranges kept, and put back where they belong; batch norm is folded in between:

    take out    q = [(qmin - z) s, (qmax - z) s] is the range of a tensor. Where it starts at 0 the pair also was a ReLU
                (ONNX Runtime removes those): the ReLU comes back
    put back    symmetric int8, scale = max(|low|, |high|) / 127, at layer inputs and at the skips of additions; weights
                that already are symmetric int8 keep their integers
    bounds      pass through what cannot enlarge a tensor: ReLU, pooling, slicing, padding with zeros, reshaping

A layer whose input has no known bound becomes float. An average pool between INT8 kernels gets a pair; its range is
the file's own, or is measured on images. Pairs on outputs are not put back.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from edgeres.core.artifacts import float_skips_of
from edgeres.quantize.repair.placing import Measure, placed, with_known_pairs
from edgeres.quantize.repair.stripping import floated


@dataclass(frozen=True)
class Repaired:
    """`notes`: what could not be kept or completed, one line each."""

    model: onnx.ModelProto
    notes: tuple[str, ...]


def repair(model: onnx.ModelProto, measure: Measure | None = None) -> Repaired:
    """A repaired copy of `model`, which is left as it is; `measure` tells what ranges the file lacks.

    Raises InputError for control flow, and for an opset that cannot be raised to one with scales per channel.
    """
    draft, taken = floated(model)
    where = placed(draft, taken, frozenset(float_skips_of(model)), measure)
    return Repaired(with_known_pairs(draft.finish(), where, taken), where.notes)


def without_pairs(model: onnx.ModelProto) -> onnx.ModelProto:
    """The float graph that `repair` places pairs in: what the file computes but for the rounding of activations."""
    return floated(model)[0].finish()
