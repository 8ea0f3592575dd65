"""Models on torch: of checkpoints the reference that the other runtimes are held against, of ONNX graphs their pairs.

Every Quantize and Dequantize node of a graph is computed as ONNX defines it, in float32.
"""

from __future__ import annotations

import torch
from torch import nn
from typing_extensions import Self

from edgeres.core.artifacts import Checkpoint, OnnxModel
from edgeres.runtime.runner import Images, Logits, RunnerOptions


class TorchRunner:
    """Eager float32; a checkpoint channels-last, on the first CUDA device where there is one (torch may use TF32).

    A graph runs on the CPU, and one that was exported for one image takes any number here.
    """

    batch: int | None = None

    def __init__(self, model: Checkpoint | OnnxModel, options: RunnerOptions) -> None:
        self._model, self._options = model, options
        is_on_gpu = isinstance(model, Checkpoint) and torch.cuda.is_available()
        self._device = torch.device("cuda" if is_on_gpu else "cpu")
        self.name = f"torch {torch.__version__} {self._device.type}"
        if isinstance(model, OnnxModel) and "int8" in model.precision:
            self.name += " fake quantization"

    def __enter__(self) -> Self:
        """Loads the weights; sets the process's thread count if one was asked for."""
        if self._options.threads is not None:
            torch.set_num_threads(self._options.threads)
        self._network = _loaded(self._model).to(self._device)
        return self

    def __exit__(self, *exc: object) -> None:
        """Frees the network."""
        del self._network

    @torch.inference_mode()
    def infer(self, images: Images) -> Logits:
        """float32 (N, C, H, W) to float32 (N, K)."""
        logits: Logits = self._network(torch.from_numpy(images).to(self._device)).float().cpu().numpy()
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


def _loaded(model: Checkpoint | OnnxModel) -> nn.Module:
    if isinstance(model, Checkpoint):
        from edgeres.models.network import in_fast_layout
        from edgeres.models.weights import load_network

        return in_fast_layout(load_network(model))
    from edgeres.graph.execute import GraphNetwork
    from edgeres.graph.plain import plain

    return GraphNetwork(plain(model).proto)
