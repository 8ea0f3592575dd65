"""Inputs and bounds of small networks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray


@pytest.fixture
def images_of() -> Callable[..., NDArray[np.float32]]:
    """`images_of(16)`: normalised inputs (16, 1, 8, 8), smooth enough to be told apart."""

    def make(n: int, *, seed: int = 0) -> NDArray[np.float32]:
        coarse = np.random.default_rng(seed).normal(size=(n, 1, 4, 4))
        fine = np.random.default_rng((seed, 1)).normal(size=(n, 1, 8, 8))
        return (coarse.repeat(2, 2).repeat(2, 3) + 0.3 * fine).astype(np.float32)

    return make


@pytest.fixture
def bounds_of(images_of) -> Callable[..., dict[str, float]]:
    """`bounds_of(model, share=0.8)`: of every tensor the largest value on 64 images, times the share."""

    def make(model: onnx.ModelProto, *, share: float = 1.0) -> dict[str, float]:
        import torch

        from edgeres.graph.execute import GraphNetwork
        from edgeres.quantize.placement import placement_of

        names = placement_of(model).observed
        with torch.no_grad():
            values = GraphNetwork(model).values(torch.from_numpy(images_of(64)), names)
        return {name: share * float(value.abs().max()) for name, value in values.items()}

    return make


@pytest.fixture
def scaled_by() -> Callable[..., onnx.ModelProto]:
    """`scaled_by(model, {("layer1.0.conv1", 3): 500})`: channel 3 so much larger; the same function in float."""
    from edgeres.quantize.channel_classes import channel_classes, scaled

    def make(model: onnx.ModelProto, factors: dict[tuple[str, int], float]) -> onnx.ModelProto:
        classes = channel_classes(model)
        divisors = np.ones(1 + max(int(one.max()) for one in classes.values()), np.float32)
        for (tensor, channel), factor in factors.items():
            divisors[classes[tensor][channel]] = 1 / factor
        changed = scaled(model, classes, divisors)
        for tensor in model.graph.initializer:
            if tensor.name in changed:
                tensor.CopyFrom(onnx.numpy_helper.from_array(changed[tensor.name], tensor.name))
        return model

    return make
