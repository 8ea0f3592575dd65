"""How every network lies in memory, whatever it is made of."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from edgeres.models.network import in_fast_layout

LAYERS = {
    "strided": (nn.Conv2d(4, 8, 1, 2), False),
    "strided in groups": (nn.Conv2d(16, 8, 1, 2, groups=4), False),
    "strided, of one channel": (nn.Conv2d(1, 8, 1, 2), False),
    "wide": (nn.Conv2d(8, 8, 1, 2), True),
    "dense": (nn.Conv2d(4, 8, 1), True),
    "3x3": (nn.Conv2d(4, 8, 3, 2), True),
}


@pytest.mark.parametrize(("layer", "is_last"), LAYERS.values(), ids=LAYERS)
def test_channels_are_last_but_where_onednn_would_damage_the_heap(layer, is_last):
    in_fast_layout(in_fast_layout(nn.Sequential(layer)))
    assert len(layer._forward_pre_hooks) == (0 if is_last else 1)
    images = torch.randn(2, 9, 9, layer.in_channels).permute(0, 3, 1, 2)
    assert layer(images).stride(1) == (1 if is_last else 25)


def test_narrow_projections_get_the_right_gradient_and_no_damaged_heap():
    code = """
import torch
from edgeres.models.network import in_fast_layout

torch.manual_seed(0)
torch.set_num_threads(1)
exact = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 8, 1, 2, bias=False)).double()
images = torch.randn(32, 3, 18, 18)
exact(images.double()).square().sum().backward()
wanted = [one.grad.clone() for one in exact.parameters()]
network = in_fast_layout(exact.float())
for _ in range(20):
    network.zero_grad()
    network(images).square().sum().backward()
print(max(float((one.grad - want).abs().max() / want.abs().max()) for one, want in zip(network.parameters(), wanted)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1e-4
