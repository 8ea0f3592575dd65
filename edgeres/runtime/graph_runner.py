"""ONNX models on torch: every Quantize and Dequantize node computed as ONNX defines it, in float32."""

from __future__ import annotations

import torch
from typing_extensions import Self

from edgeres.core.artifacts import OnnxModel
from edgeres.graph.execute import GraphNetwork
from edgeres.graph.plain import plain
from edgeres.runtime.runner import Images, Logits, RunnerOptions


class GraphRunner:
    """A GraphNetwork on the CPU; a graph exported for one image takes any number here."""

    batch: int | None = None

    def __init__(self, model: OnnxModel, options: RunnerOptions) -> None:
        self._model, self._options = model, options
        self.name = f"torch {torch.__version__} cpu"
        if "int8" in model.precision:
            self.name += " fake quantization"

    def __enter__(self) -> Self:
        """Builds the network; sets the process's thread count if one was asked for."""
        if self._options.threads is not None:
            torch.set_num_threads(self._options.threads)
        self._network = GraphNetwork(plain(self._model).proto)
        return self

    def __exit__(self, *exc: object) -> None:
        """Frees the network."""
        del self._network

    @torch.inference_mode()
    def infer(self, images: Images) -> Logits:
        """float32 (N, C, H, W) to float32 (N, K)."""
        logits: Logits = self._network(torch.from_numpy(images)).float().numpy()
        return logits

    def load(self, images: Images) -> None:
        """Keeps the input as a tensor."""
        self._input = torch.from_numpy(images)

    @torch.inference_mode()
    def step(self) -> None:
        """One forward pass."""
        self._network(self._input)

    def synchronize(self) -> None:
        """The call is synchronous."""
