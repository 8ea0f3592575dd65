from __future__ import annotations

import torch

from edgeres.graph.execute import GraphNetwork
from edgeres.quantize.simulate import Walk, live_after


def test_a_walk_gives_the_values_of_one_run(onnx_of, images_of):
    network = GraphNetwork(onnx_of().proto)
    images = images_of(70)
    walk = Walk(network, images)
    names = [str(node.output[0]) for node in network.nodes if node.op_type in ("Conv", "Add", "Gemm")]
    with torch.no_grad():
        wanted = network.values(torch.from_numpy(images), names)
    for name in names:
        torch.testing.assert_close(walk.advance(name), wanted[name], rtol=1e-4, atol=1e-5)


def test_a_shift_reaches_what_comes_later(onnx_of, images_of):
    network = GraphNetwork(onnx_of().proto)
    walk = Walk(network, images_of(4))
    pooled = network.nodes[-1].input[0]
    walk.advance(pooled)
    before = walk.front[pooled]
    walk.shift(pooled, torch.ones(before.shape[1]))
    assert torch.equal(walk.front[pooled], before + 1)


def test_the_skip_stays_alive_inside_a_module(onnx_of):
    network = GraphNetwork(onnx_of().proto)
    assert live_after(network, "layer1.0.relu") == ["layer1.0.relu", "relu"]
    assert live_after(network, network.output) == [network.output]
