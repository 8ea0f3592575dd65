"""Checkpoints on torch: the reference the other runtimes are held against."""

from __future__ import annotations

import torch
from typing_extensions import Self

from edgeres.core.artifacts import Checkpoint
from edgeres.models.network import Network
from edgeres.models.weights import load_network
from edgeres.runtime.runner import Images, Logits, RunnerOptions


class TorchRunner:
    """Eager float32, channels-last, on the CPU, or on the first CUDA device (where torch may use TF32)."""

    batch: int | None = None

    def __init__(self, checkpoint: Checkpoint, options: RunnerOptions) -> None:
        self._checkpoint, self._options = checkpoint, options
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.name = f"torch {torch.__version__} {self._device.type}"

    def __enter__(self) -> Self:
        """Loads the weights; sets the process's thread count if one was asked for."""
        if self._options.threads is not None:
            torch.set_num_threads(self._options.threads)
        network = load_network(self._checkpoint)
        self._network: Network = network.to(self._device).to(memory_format=torch.channels_last)
        return self

    def __exit__(self, *exc: object) -> None:
        """Frees the network."""
        del self._network

    @torch.inference_mode()
    def infer(self, images: Images) -> Logits:
        """float32 (N, C, H, W) to float32 (N, K)."""
        logits: Logits = self._network(torch.from_numpy(images).to(self._device)).cpu().numpy()
        return logits

    def load(self, images: Images) -> None:
        """Copies the input to the device."""
        self._input = torch.from_numpy(images).to(self._device)

    @torch.inference_mode()
    def step(self) -> None:
        """One forward pass."""
        self._network(self._input)

    def synchronize(self) -> None:
        """Waits for the GPU; nothing to do on a CPU."""
        if self._device.type == "cuda":
            torch.cuda.synchronize()
