"""What learns: network, optimiser and average on this process's device, in step with the other processes."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from edgeres.core.processes import summed
from edgeres.models.network import Network, in_fast_layout
from edgeres.train.config import LoopConfig
from edgeres.train.objectives import Objective, optimizer_for

_RAMP = 10


class LossModule(nn.Module):
    """Network and objective as one module, so that gradients are shared whatever the objective calls."""

    def __init__(self, network: Network, objective: Objective) -> None:
        super().__init__()
        self.network, self.objective = network, objective

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """The loss."""
        return self.objective(self.network, images, labels)


class Learner:
    """One step at a time, and everything that must be saved to go on later."""

    def __init__(
        self,
        network: Network,
        objective: Objective,
        config: LoopConfig,
        accelerator: Accelerator,
        *,
        is_shared: bool = True,
        refines: bool = False,
    ) -> None:
        self.accelerator, self._clip_norm = accelerator, config.clip_norm
        self.processes = accelerator.num_processes if is_shared else 1
        self.network = in_fast_layout(network.to(accelerator.device))
        optimizer = optimizer_for(network, config, refines=refines)
        self._average: AveragedModel | None = averaged_model(network, config.ema) if config.ema else None
        self._loss = accelerator.prepare_model(LossModule(network, objective), evaluation_mode=not is_shared)
        self._optimizer = accelerator.prepare_optimizer(optimizer)

    def learn(self, images: Tensor, labels: Tensor, lr: float) -> Tensor:
        """Takes one step, none without images; the loss of the global batch before it, float64, detached."""
        loss = self._step(images, labels, lr) if len(images) else images.new_zeros(())
        return summed(loss.double()) / self.processes

    def _step(self, images: Tensor, labels: Tensor, lr: float) -> Tensor:
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.zero_grad()
        loss: Tensor = self._loss(images, labels)
        self.accelerator.backward(loss)
        if self._clip_norm is not None:
            self.accelerator.clip_grad_norm_(self.network.parameters(), self._clip_norm)
        self._optimizer.step()
        if self._average is not None:
            self._average.update_parameters(self.network)
        return loss.detach()

    @property
    def result(self) -> nn.Module:
        """The network that is judged and kept: the average if there is one."""
        return self.network if self._average is None else self._average.module

    def state(self) -> dict[str, Any]:
        """Tensors and plain values that `restore` understands."""
        scaler = self.accelerator.scaler
        return {
            "network": self.network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "average": None if self._average is None else self._average.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes back to a saved state of the same training."""
        self.network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])


def fingerprint(network: nn.Module) -> str:
    """Hex sha256 of all parameters and buffers."""
    digest = hashlib.sha256()
    for key, tensor in network.state_dict().items():
        digest.update(key.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def averaged_model(network: nn.Module, decay: float) -> AveragedModel:
    """A copy of `network` that follows it as a <- d a + (1 - d) w with d = min(decay, (1 + n) / (10 + n)).

    The ramp lets a short training forget its first steps (as in TensorFlow's ExponentialMovingAverage).
    """

    @torch.no_grad()
    def follow(averages: Any, currents: Any, count: Any) -> None:
        n = float(count)
        keep = min(decay, (1 + n) / (_RAMP + n))
        for average, current in zip(averages, currents, strict=True):
            if average.is_floating_point():
                average.lerp_(current, 1 - keep)
            else:
                average.copy_(current)

    return AveragedModel(network, multi_avg_fn=follow, use_buffers=True)
