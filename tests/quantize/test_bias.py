from __future__ import annotations

import torch

from edgeres.graph.execute import GraphNetwork
from edgeres.quantize.auto import fidelity_of, logits_of
from edgeres.quantize.bias import bias_corrected
from edgeres.quantize.decision import Decision
from edgeres.quantize.insert import with_pairs
from edgeres.quantize.placement import placement_of
from edgeres.quantize.scaling import channels_scaled


def test_every_layer_has_the_mean_it_has_in_float(onnx_of, images_of, bounds_of):
    model = onnx_of().proto
    placement, images = placement_of(model), images_of(64)
    decision = Decision(bounds_of(model, share=0.5))
    corrected = bias_corrected(model, placement, decision, images=images)
    for layer in ("layer2.0.conv2", "layer3.0.conv1", GraphNetwork(model).output):
        exact = _means(model, layer, images)
        before = (_means(with_pairs(model, placement, decision), layer, images) - exact).norm()
        after = (_means(with_pairs(model, placement, corrected), layer, images) - exact).norm()
        assert after < 1e-3 * before


def test_bounds_and_weights_are_left_alone(onnx_of, images_of, bounds_of):
    model = onnx_of().proto
    decision = Decision(bounds_of(model))
    corrected = bias_corrected(model, placement_of(model), decision, images=images_of(16))
    assert (corrected.amax, corrected.weights) == (decision.amax, {})
    assert all("bias" in name for name in corrected.tensors)


def test_it_may_follow_scaled_channels(onnx_of, images_of, bounds_of):
    model = onnx_of().proto
    placement, images = placement_of(model), images_of(64)
    scaled = channels_scaled(model, placement, Decision(bounds_of(model)), images=images)
    corrected = bias_corrected(model, placement, scaled, images=images)
    assert _sqnr_db(model, corrected, images) > _sqnr_db(model, scaled, images) - 1


def _sqnr_db(model, decision, images):
    written = GraphNetwork(with_pairs(model, placement_of(model), decision))
    return fidelity_of(logits_of(GraphNetwork(model), images), logits_of(written, images)).sqnr_db


def _means(model, tensor, images):
    with torch.no_grad():
        value = GraphNetwork(model).values(torch.from_numpy(images), [tensor])[tensor]
    return value.transpose(0, 1).flatten(1).mean(1)
