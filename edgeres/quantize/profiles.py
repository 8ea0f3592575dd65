"""Who will run the quantized file: where its pairs stand, how they are written, and how it is judged.

    tensorrt       int8, zero points 0, float bias, the skip input of an addition only; opset 17 suits TensorRT 8.4 on
    tensorrt-fp16  the same pairs, everything else in float16: TensorRT 10 and later, TensorRT-RTX (opset 19)
    ort-cpu        uint8 activations, both inputs of an addition, int32 biases: ONNX Runtime fuses all of it

One file cannot serve both: TensorRT refuses the pairs that ONNX Runtime needs in order to be fast, and ONNX Runtime
executes TensorRT's placement slower than float. The profile's name stands in the file's metadata.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeres.core.artifacts import PROFILE_KEY
from edgeres.core.names import lookup, resolve

if TYPE_CHECKING:
    from edgeres.quantize.decision import Decision
    from edgeres.quantize.placement import Options, Placement

WEIGHT_BITS_KEY = "edgeres.weight_bits"
_BITS, _REDUCED_BITS = "8", "7"


@dataclass(frozen=True)
class Profile:
    """Where pairs go, who writes them, and `literal`: whether ONNX Runtime shall evaluate the pairs one by one.

    `prepare` rewrites the float graph before anything is placed, without changing what it computes.
    """

    placement: str
    write: Callable[..., Any]
    literal: bool
    prepare: str | None = None

    def prepared(self, model: Any) -> Any:
        """The float onnx.ModelProto the pairs are placed in."""
        return resolve(self.prepare)(model) if self.prepare else model


def placement_for(model: Any, profile: str, options: Options) -> Placement:
    """Where the profile puts its pairs in the float `model`; its `observed` tensors need bounds.

    Raises InputError for an unknown profile, for layers the rule does not know, and for what `keep` names in vain.
    """
    chosen = lookup(PROFILES, profile, "profile")
    placement: Placement = resolve(chosen.placement)(chosen.prepared(model), options)
    return placement


def quantized(model: Any, profile: str, decision: Decision, options: Options) -> Any:
    """The float onnx.ModelProto `model` as the profile writes it, its name in the metadata.

    Raises InputError as `placement_for`, and for a constant that float16 cannot hold.
    """
    placement, chosen = placement_for(model, profile, options), PROFILES[profile]
    result = chosen.write(chosen.prepared(model), placement, decision, options)
    set_metadata(result, PROFILE_KEY, profile)
    return result


def _tensorrt(model: Any, placement: Placement, decision: Decision, options: Options) -> Any:
    from edgeres.quantize.insert import with_pairs

    return with_pairs(model, placement, decision)


def _tensorrt_fp16(model: Any, placement: Placement, decision: Decision, options: Options) -> Any:
    from edgeres.graph.opset import with_half
    from edgeres.quantize.insert import half_decision, with_pairs

    return with_half(with_pairs(model, placement, half_decision(model, placement, decision)))


def _ort_cpu(model: Any, placement: Placement, decision: Decision, options: Options) -> Any:
    from edgeres.quantize.cpu import reduces_range, with_affine_pairs

    reduce_range = reduces_range(options.reduce_range)
    result = with_affine_pairs(model, placement, decision, reduce_range=reduce_range)
    set_metadata(result, WEIGHT_BITS_KEY, _REDUCED_BITS if reduce_range else _BITS)
    return result


def set_metadata(model: Any, key: str, value: str) -> None:
    """Adds or replaces one entry of metadata_props."""
    for entry in model.metadata_props:
        if entry.key == key:
            entry.value = value
            return
    model.metadata_props.add(key=key, value=value)


PROFILES = {
    "tensorrt": Profile("edgeres.quantize.placement:placement_of", _tensorrt, literal=True),
    "tensorrt-fp16": Profile("edgeres.quantize.placement:placement_of", _tensorrt_fp16, literal=True),
    "ort-cpu": Profile(
        "edgeres.quantize.placement:cpu_placement_of",
        _ort_cpu,
        literal=False,
        prepare="edgeres.quantize.placement:with_padding_as_convolution",
    ),
}
