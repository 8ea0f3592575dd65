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
