"""Bias correction: takes back what quantization adds to a layer's output on average.

    b_c <- b_c + mean(y_c of the float network) - mean(y_c of the quantized network)

over images and places, layer by layer in order of execution, each seeing what the corrections before it left.
Source: Nagel et al. 2019, arXiv 1906.04721, section 4.2 and appendix D (empirical).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import Tensor

from edgeres.core.progress import track
from edgeres.quantize.decision import Decision
from edgeres.quantize.placement import Placement
from edgeres.quantize.simulate import Images, Simulation, Walk, float_network, replace_tensors


def bias_corrected(model: onnx.ModelProto, placement: Placement, decision: Decision, *, images: Images) -> Decision:
    """`decision` with corrected biases of the quantized layers, from calibration images float32 (N, C, H, W).

    Means are held against those of `float_network`. Layers without a bias are left alone; `edgeres export` gives every
    convolution one.
    """
    simulation = Simulation(model, placement, decision)
    network = simulation.network
    exact, walk = Walk(float_network(model, decision), images), Walk(network, images)
    tensors: dict[str, NDArray[Any]] = dict(decision.tensors)
    layers = [node for node in network.nodes if node.name in placement.layers and len(node.input) > 2]
    for node in track(layers, "bias correction", len(layers)):
        bias, output = str(node.input[2]), str(node.output[0])
        shift = _channel_means(exact.advance(output)) - _channel_means(walk.advance(output))
        walk.shift(output, shift)
        tensors[bias] = (network.parameter(bias).detach() + shift).numpy().astype(np.float32)
        replace_tensors(network, {bias: tensors[bias]})
    return replace(decision, tensors=tensors)


def _channel_means(value: Tensor) -> Tensor:
    return value.transpose(0, 1).flatten(1).mean(1)
