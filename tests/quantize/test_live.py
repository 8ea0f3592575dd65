from __future__ import annotations

from edgeres.graph.execute import GraphNetwork
from edgeres.quantize.simulate import live_after


def test_the_skip_stays_alive_inside_a_module(onnx_of):
    network = GraphNetwork(onnx_of().proto)
    assert live_after(network, "layer1.0.relu") == ["layer1.0.relu", "relu"]
    assert live_after(network, network.output) == [network.output]
