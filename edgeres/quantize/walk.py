"""Walking through a network tensor by tensor with all images at once: every node is executed once for the whole walk.

The front is what the rest of the network needs: the tensors that are computed already and read later.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeres.graph.execute import GraphNetwork

Images = NDArray[np.float32]
_BATCH = 64


class Walk:
    """Values of `network` on `images` (N, C, H, W), from its input on; memory: the front, for all images."""

    def __init__(self, network: GraphNetwork, images: Images) -> None:
        self._network = network
        self._values: dict[str, Tensor] = {network.input: torch.from_numpy(images)}

    @property
    def front(self) -> dict[str, Tensor]:
        """What the rest of the network can be computed from."""
        return dict(self._values)

    @torch.no_grad()
    def advance(self, tensor: str) -> Tensor:
        """Moves the front to where `tensor` has just been computed; its value on all images."""
        wanted = [name for name in live_after(self._network, tensor) if name not in self._values]
        parts: dict[str, list[Tensor]] = {name: [] for name in wanted}
        n = len(next(iter(self._values.values())))
        for start in range(0, n if wanted else 0, _BATCH):
            feeds = {name: value[start : start + _BATCH] for name, value in self._values.items()}
            for name, value in self._network.run(feeds, wanted).items():
                parts[name].append(value)
        self._values |= {name: torch.cat(part) for name, part in parts.items()}
        self._values = {name: self._values[name] for name in live_after(self._network, tensor)}
        return self._values[tensor]

    @torch.no_grad()
    def shift(self, tensor: str, by: Tensor) -> None:
        """Adds `by` (C,) to the channels of a tensor of the front."""
        value = self._values[tensor]
        self._values[tensor] = value + by.reshape(1, -1, *[1] * (value.ndim - 2))


def live_after(network: GraphNetwork, tensor: str) -> list[str]:
    """`tensor`, and what is computed before it and read after it."""
    made = {network.input: -1} | {str(node.output[0]): step for step, node in enumerate(network.nodes)}
    now = made[tensor]
    read = {name for node in network.nodes[now + 1 :] for name in node.input}
    return [tensor, *(name for name, step in made.items() if step < now and name in read)]
